select
    {{ adapter.quote('orderID') }} as order_id,
    {{ adapter.quote('customerID') }} as customer_id,
    cast({{ adapter.quote('orderDate') }} as date) as ordered_on,
    cast({{ adapter.quote('requiredDate') }} as date) as required_on,
    cast({{ adapter.quote('shippedDate') }} as date) as shipped_on,
    {{ adapter.quote('shipVia') }} as carrier_id,
    {{ adapter.quote('freight') }} as freight,
    {{ adapter.quote('shipCountry') }} as country
from {{ source('raw', 'raw_orders') }}
