select
    order_id,
    product_id,
    quantity,
    unit_price,
    discount,
    round(unit_price * quantity, 2) as gross_amount,
    round(unit_price * quantity * (1 - discount), 2) as net_amount
from {{ ref('stg_order_lines') }}
