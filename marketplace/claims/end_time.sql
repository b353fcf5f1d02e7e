-- End running time entries: at the moment given, or earlier where the last heartbeat plus the grace,
-- the activity's cap or the claim's deadline ended them. Null parameters do not narrow.
-- They are locked in one order, so that two sweeps at once wait for each other and do not deadlock.
WITH running AS (
    SELECT entry.id, claim.deadline, clock.second
    FROM time_entry AS entry
    JOIN claim ON claim.id = entry.claim_id
    CROSS JOIN (SELECT present_second() AS second) AS clock
    WHERE entry.ended_at IS NULL
      AND (CAST(:claim AS uuid) IS NULL OR entry.claim_id = :claim)
      AND (CAST(:performer AS uuid) IS NULL OR entry.performer_id = :performer)
      AND (
          NOT :only_overdue
          OR least(entry.heartbeat_at + make_interval(secs => :grace), entry.ends_by)
              <= clock.second
      )
    ORDER BY entry.id
    FOR NO KEY UPDATE OF entry
)
UPDATE time_entry AS entry
SET ended_at = greatest(entry.started_at, least(
        running.second, entry.heartbeat_at + make_interval(secs => :grace), entry.ends_by)),
    ended_by = CASE
        WHEN entry.ends_by <= least(
            running.second, entry.heartbeat_at + make_interval(secs => :grace))
            THEN CASE WHEN entry.ends_by >= running.deadline THEN 'deadline' ELSE 'cap' END
        WHEN entry.heartbeat_at + make_interval(secs => :grace) < running.second THEN 'silence'
        ELSE :ended_by
    END
FROM running
WHERE entry.id = running.id
RETURNING running.second
