-- One row for each record: the key column must be unique and not null.
SELECT id, name, city, updated_at
FROM customers
