select
    lines.order_id,
    lines.product_id,
    orders.customer_id,
    orders.ordered_on,
    lines.quantity,
    lines.unit_price,
    lines.discount,
    lines.gross_amount,
    lines.net_amount
from {{ ref('int_order_lines_priced') }} as lines
inner join {{ ref('stg_orders') }} as orders on lines.order_id = orders.order_id
