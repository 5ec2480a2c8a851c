{{ config(materialized='incremental', unique_key='order_id', on_schema_change='fail') }}

{% set columns = [
    'order_id', 'customer_id', 'country', 'ordered_on', 'required_on', 'shipped_on', 'carrier_id', 'status',
    'line_count', 'units', 'gross_amount', 'net_amount', 'freight'
] %}
{% set texts = [] %}
{% for column in columns %}
    {% do texts.append("coalesce(cast(" ~ column ~ " as " ~ dbt.type_string() ~ "), '')") %}
    {% do texts.append("'|'") %}
{% endfor %}

with orders as (
    select
        orders.order_id,
        orders.customer_id,
        orders.country,
        orders.ordered_on,
        orders.required_on,
        orders.shipped_on,
        orders.carrier_id,
        case
            when orders.shipped_on is null then 'open'
            when orders.shipped_on > orders.required_on then 'late'
            else 'shipped'
        end as status,
        totals.line_count,
        totals.units,
        totals.gross_amount,
        totals.net_amount,
        orders.freight
    from {{ ref('stg_orders') }} as orders
    inner join {{ ref('int_order_totals') }} as totals on orders.order_id = totals.order_id
),

hashed as (
    select
        {{ columns | join(', ') }},
        {{ dbt.hash(dbt.concat(texts)) }} as row_hash
    from orders
)

select *
from hashed
{% if is_incremental() %}
-- What is not there as it is now: new orders, late ones however old they are, and those that were changed.
where row_hash not in (select row_hash from {{ this }})
{% endif %}
