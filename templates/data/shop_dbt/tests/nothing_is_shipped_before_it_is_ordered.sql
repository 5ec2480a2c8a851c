select order_id
from {{ ref('fct_orders') }}
where shipped_on < ordered_on
