select
    {{ adapter.quote('customerID') }} as customer_id,
    {{ adapter.quote('companyName') }} as company,
    {{ adapter.quote('city') }} as city,
    {{ adapter.quote('country') }} as country
from {{ source('raw', 'raw_customers') }}
