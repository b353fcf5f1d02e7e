-- Start an activity in a claim: ends the performer's running entry and opens the next, in one go.
-- Answers the new entry, or nothing when the claim is not workable or the activity's cap is used up.
WITH clock AS (
    SELECT present_second() AS second
), own AS (
    SELECT claim.id, claim.state, claim.performer_id, claim.retakes_granted,
           role.prep_seconds_cap, role.perform_seconds_cap, clock.second,
           -- Starting a session makes the deadline long enough for the caps.
           CASE WHEN claim.state = 'active'
               THEN greatest(claim.deadline, clock.second + make_interval(
                   secs => role.prep_seconds_cap + role.perform_seconds_cap))
               ELSE claim.deadline
           END AS deadline
    FROM claim
    JOIN role ON role.id = claim.role_id
    CROSS JOIN clock
    WHERE claim.id = :claim
      AND claim.performer_id = :performer
      AND claim.deadline > clock.second
      AND (
          (claim.state IN ('active', 'in_session') AND :activity <> 'retake')
          OR (claim.state = 'retake' AND :activity <> 'perform')
      )
    FOR NO KEY UPDATE OF claim
), ended AS (
    UPDATE time_entry AS entry
    SET ended_at = greatest(started_at, least(
            own.second, heartbeat_at + make_interval(secs => :grace), ends_by)),
        ended_by = CASE
            WHEN ends_by <= least(own.second, heartbeat_at + make_interval(secs => :grace)) THEN 'cap'
            WHEN heartbeat_at + make_interval(secs => :grace) < own.second THEN 'silence'
            ELSE 'switched'
        END
    FROM own
    WHERE entry.performer_id = own.performer_id AND entry.ended_at IS NULL
    RETURNING entry.claim_id, entry.activity, entry.started_at, entry.ended_at
), spent AS (
    SELECT activity, ended_at - started_at AS lasted
    FROM time_entry
    WHERE claim_id = :claim AND ended_at IS NOT NULL
    UNION ALL
    SELECT activity, ended_at - started_at FROM ended WHERE claim_id = :claim
), allowed AS (
    SELECT own.*,
           CASE
               WHEN :activity IN ('brief', 'prep', 'wait') THEN prep_seconds_cap
               WHEN :activity = 'perform' THEN perform_seconds_cap
               ELSE perform_seconds_cap * retakes_granted
           END - coalesce((
               SELECT extract(epoch FROM sum(lasted))::bigint
               FROM spent
               WHERE CASE
                   WHEN :activity IN ('brief', 'prep', 'wait')
                       THEN activity IN ('brief', 'prep', 'wait')
                   ELSE activity = :activity
               END
           ), 0) AS seconds_left
    FROM own
), moved AS (
    UPDATE claim SET state = 'in_session', deadline = allowed.deadline
    FROM allowed
    WHERE claim.id = allowed.id AND claim.state = 'active' AND seconds_left > 0
    RETURNING claim.id
)
-- Selecting from the UPDATE (through `spent`) makes it happen first, so that the two entries of one
-- performer never overlap.
INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at, heartbeat_at, ends_by)
SELECT :entry, id, performer_id, :activity, second, second,
       least(deadline, second + make_interval(secs => seconds_left))
FROM allowed
WHERE seconds_left > 0
RETURNING id
