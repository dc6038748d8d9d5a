-- What is known of each plane.
SELECT
    p.tailnum,
    p.year,
    p.type,
    p.manufacturer,
    p.model,
    p.engines,
    coalesce(CAST(c.seats AS INTEGER), p.seats) AS seats,
    p.engine
FROM planes AS p
LEFT JOIN seat_corrections AS c ON c.tailnum = p.tailnum
WHERE p.tailnum NOT IN (SELECT tailnum FROM sold_planes)
