select
    countries.country,
    countries.code,
    countries.continent,
    count(orders.order_id) as order_count,
    coalesce(sum(orders.net_amount), 0) as net_amount
from {{ ref('countries') }} as countries
left join {{ ref('fct_orders') }} as orders on countries.country = orders.country
group by countries.country, countries.code, countries.continent
