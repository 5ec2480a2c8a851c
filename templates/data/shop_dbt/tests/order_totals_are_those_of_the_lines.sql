-- The orders for which the total is not the sum of the lines.
select orders.order_id
from {{ ref('fct_orders') }} as orders
left join {{ ref('fct_order_lines') }} as lines on orders.order_id = lines.order_id
group by orders.order_id, orders.net_amount
having orders.net_amount <> coalesce(sum(lines.net_amount), 0)
