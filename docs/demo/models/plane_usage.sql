-- How each plane was used over the year, with its five most frequent destinations.
WITH reported AS (
    SELECT tailnum, carrier, dest, distance, arr_delay, time_hour
    FROM flights
    WHERE tailnum IS NOT NULL
      AND carrier NOT IN (SELECT carrier FROM silent_carriers)
      AND tailnum NOT IN (SELECT tailnum FROM sold_planes)
),
visits AS (
    SELECT
        tailnum,
        dest,
        count(*) AS visits,
        row_number() OVER (PARTITION BY tailnum ORDER BY count(*) DESC, dest) AS place
    FROM reported
    GROUP BY tailnum, dest
),
top AS (
    SELECT
        v.tailnum,
        json_group_array(
            json_object('airport', v.dest, 'name', a.name, 'flights', v.visits) ORDER BY v.place
        ) AS destinations
    FROM visits AS v
    LEFT JOIN airports AS a ON a.faa = v.dest
    WHERE v.place <= 5
    GROUP BY v.tailnum
)
SELECT
    r.tailnum,
    max(l.name) AS airline,
    count(*) AS flights,
    sum(r.distance) AS miles,
    round(avg(r.arr_delay), 1) AS mean_delay,
    max(r.time_hour) AS last_flight,
    t.destinations
FROM reported AS r
JOIN top AS t ON t.tailnum = r.tailnum
LEFT JOIN airlines AS l ON l.carrier = r.carrier
GROUP BY r.tailnum
