select
    order_id,
    count(*) as line_count,
    cast(sum(quantity) as {{ dbt.type_bigint() }}) as units,
    sum(gross_amount) as gross_amount,
    sum(net_amount) as net_amount
from {{ ref('int_order_lines_priced') }}
group by order_id
