select
    cast({{ dbt.date_trunc('month', 'ordered_on') }} as date) as month,
    count(*) as order_count,
    count(distinct customer_id) as customer_count,
    sum(net_amount) as net_amount,
    sum(freight) as freight
from {{ ref('fct_orders') }}
group by 1
