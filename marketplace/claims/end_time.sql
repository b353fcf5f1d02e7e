-- End running time entries: at the moment given, or earlier where the last heartbeat plus the grace,
-- the activity's cap or the claim's deadline ended them. Null parameters do not narrow.
UPDATE time_entry AS entry
SET ended_at = greatest(entry.started_at, least(
        clock.second, entry.heartbeat_at + make_interval(secs => :grace), entry.ends_by)),
    ended_by = CASE
        WHEN entry.ends_by <= least(
            clock.second, entry.heartbeat_at + make_interval(secs => :grace))
            THEN CASE WHEN entry.ends_by >= claim.deadline THEN 'deadline' ELSE 'cap' END
        WHEN entry.heartbeat_at + make_interval(secs => :grace) < clock.second THEN 'silence'
        ELSE :ended_by
    END
FROM claim, (SELECT present_second() AS second) AS clock
WHERE claim.id = entry.claim_id
  AND entry.ended_at IS NULL
  AND (CAST(:claim AS uuid) IS NULL OR entry.claim_id = :claim)
  AND (CAST(:performer AS uuid) IS NULL OR entry.performer_id = :performer)
  AND (
      NOT :only_overdue
      OR least(entry.heartbeat_at + make_interval(secs => :grace), entry.ends_by) <= clock.second
  )
RETURNING clock.second
