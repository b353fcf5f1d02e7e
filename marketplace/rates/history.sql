-- A lineage's rates as they were announced by a time, in order of effect, the newest first: each
-- with its status at that time and its change against the one before it.
SELECT rate.*,
       CASE
           WHEN rate.effective_from > :at THEN 'announced'
           WHEN EXISTS (
               SELECT FROM rate AS following
               WHERE following.lineage_id = rate.lineage_id AND following.effective_from <= :at
                 AND (following.effective_from, following.number)
                   > (rate.effective_from, rate.number)
           ) THEN 'superseded'
           ELSE 'in_force'
       END AS status,
       previous.rate_minor_per_hour AS previous_rate_minor_per_hour,
       change_percent(previous.rate_minor_per_hour, rate.rate_minor_per_hour) AS change_percent
FROM rate
LEFT JOIN LATERAL (
    SELECT earlier.rate_minor_per_hour
    FROM rate AS earlier
    WHERE earlier.lineage_id = rate.lineage_id AND earlier.announced_at <= :at
      AND (earlier.effective_from, earlier.number) < (rate.effective_from, rate.number)
    ORDER BY earlier.effective_from DESC, earlier.number DESC
    LIMIT 1
) AS previous ON true
WHERE rate.lineage_id = :lineage
  AND rate.announced_at <= :at
  AND (CAST(:only AS uuid) IS NULL OR rate.id = :only)
  AND (
      CAST(:after_effect AS timestamptz) IS NULL
      OR (rate.effective_from, rate.number) < (CAST(:after_effect AS timestamptz), :after_number)
  )
ORDER BY rate.effective_from DESC, rate.number DESC
LIMIT :rows
