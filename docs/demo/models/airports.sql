-- Every airport that is open.
SELECT * FROM airports WHERE faa NOT IN (SELECT faa FROM closed_airports)
