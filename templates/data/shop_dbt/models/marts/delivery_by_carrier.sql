select
    carrier_id,
    count(*) as order_count,
    count(case when status = 'late' then 1 end) as late_count,
    round(avg(cast({{ dbt.datediff('ordered_on', 'shipped_on', 'day') }} as {{ dbt.type_numeric() }})), 1) as days,
    sum(freight) as freight
from {{ ref('fct_orders') }}
where shipped_on is not null
group by carrier_id
