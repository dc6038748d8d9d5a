-- One row a customer. A model is one SELECT statement in SQLite's SQL.
SELECT
    c.id,
    c.name,
    c.city,
    count(o.id) AS orders,
    coalesce(sum(o.cents), 0) AS cents,
    max(o.placed_at) AS last_order,
    json_group_array(o.id ORDER BY o.id) FILTER (WHERE o.id IS NOT NULL) AS order_ids
FROM customers AS c
LEFT JOIN orders AS o ON o.customer_id = c.id
GROUP BY c.id
