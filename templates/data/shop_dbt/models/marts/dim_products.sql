with totals as (
    select
        product_id,
        cast(sum(quantity) as {{ dbt.type_bigint() }}) as units_sold,
        sum(net_amount) as net_amount
    from {{ ref('fct_order_lines') }}
    group by product_id
)

select
    products.product_id,
    products.product,
    categories.category,
    products.unit_price,
    products.units_in_stock,
    products.is_discontinued,
    coalesce(totals.units_sold, 0) as units_sold,
    coalesce(totals.net_amount, 0) as net_amount
from {{ ref('stg_products') }} as products
inner join {{ ref('categories') }} as categories on products.category_id = categories.category_id
left join totals on products.product_id = totals.product_id
