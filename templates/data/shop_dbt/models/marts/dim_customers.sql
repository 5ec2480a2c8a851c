with totals as (
    select
        customer_id,
        count(*) as order_count,
        min(ordered_on) as first_order_on,
        max(ordered_on) as last_order_on,
        sum(net_amount) as net_amount
    from {{ ref('fct_orders') }}
    group by customer_id
)

select
    customers.customer_id,
    customers.company,
    customers.city,
    customers.country,
    countries.continent,
    coalesce(totals.order_count, 0) as order_count,
    totals.first_order_on,
    totals.last_order_on,
    coalesce(totals.net_amount, 0) as net_amount,
    case
        when coalesce(totals.net_amount, 0) >= 20000 then 'large'
        when coalesce(totals.net_amount, 0) >= 5000 then 'medium'
        else 'small'
    end as size
from {{ ref('stg_customers') }} as customers
inner join {{ ref('countries') }} as countries on customers.country = countries.country
left join totals on customers.customer_id = totals.customer_id
