select
    {{ adapter.quote('productID') }} as product_id,
    {{ adapter.quote('productName') }} as product,
    {{ adapter.quote('categoryID') }} as category_id,
    {{ adapter.quote('unitPrice') }} as unit_price,
    {{ adapter.quote('unitsInStock') }} as units_in_stock,
    {{ adapter.quote('discontinued') }} as is_discontinued
from {{ source('raw', 'raw_products') }}
