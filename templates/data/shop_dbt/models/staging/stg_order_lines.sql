select
    {{ adapter.quote('orderID') }} as order_id,
    {{ adapter.quote('productID') }} as product_id,
    {{ adapter.quote('unitPrice') }} as unit_price,
    {{ adapter.quote('quantity') }} as quantity,
    {{ adapter.quote('discount') }} as discount
from {{ source('raw', 'raw_order_details') }}
