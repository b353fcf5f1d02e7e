-- Start an activity in a claim: answers the new entry, or nothing when the claim is not workable or
-- the activity's cap is used up. The caller holds the claim and has ended what the performer did
-- before; `second` is the moment of that end, if there was one, so that the two entries telescope.
WITH own AS (
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
    CROSS JOIN (
        SELECT coalesce(CAST(:second AS timestamptz), present_second()) AS second
    ) AS clock
    WHERE claim.id = :claim
      AND claim.deadline > clock.second
      AND (
          (claim.state IN ('active', 'in_session') AND :activity <> 'retake')
          OR (claim.state = 'retake' AND :activity <> 'perform')
      )
), allowed AS (
    SELECT own.*,
           CASE
               WHEN :activity IN ('brief', 'prep', 'wait') THEN prep_seconds_cap
               ELSE perform_seconds_cap
           END - coalesce((
               SELECT extract(epoch FROM sum(ended_at - started_at))::bigint
               FROM time_entry
               WHERE claim_id = own.id
                 AND CASE
                     WHEN :activity IN ('brief', 'prep', 'wait')
                         THEN activity IN ('brief', 'prep', 'wait')
                     ELSE activity = :activity
                 END
                 -- Each retake has the cap for itself.
                 AND (retake_number IS NULL OR retake_number = own.retakes_granted)
           ), 0) AS seconds_left
    FROM own
), moved AS (
    UPDATE claim SET state = 'in_session', deadline = allowed.deadline
    FROM allowed
    WHERE claim.id = allowed.id AND claim.state = 'active' AND seconds_left > 0
    RETURNING claim.id
)
INSERT INTO time_entry (id, claim_id, performer_id, activity, started_at, heartbeat_at, ends_by)
SELECT :entry, id, performer_id, :activity, second, second,
       least(deadline, second + make_interval(secs => seconds_left))
FROM allowed
WHERE seconds_left > 0
RETURNING id
