-- Claim a role: one statement decides. It locks the performer's row, then the role, and in the same
-- breath signs the consent grant, locks the rate and stores the answer for repeats of the key.
--
-- It answers nothing when the role cannot be had, and also when a repeat of the same key was waiting
-- for the first; so the caller runs it once more when it answers nothing.
WITH clock AS (
    SELECT marketplace_now() AS now, date_trunc('second', marketplace_now()) AS second,
           set_config('marketplace.actor', :performer_text, true),
           set_config('marketplace.request_id', :request_id, true)
), stored AS (
    SELECT status, body, request_hash
    FROM idempotency_key
    WHERE principal_id = :performer AND operation = 'make_claim' AND key = :key
), performer AS (
    SELECT person_id, languages, skills, live_claims, claims_limit
    FROM performer
    WHERE person_id = :performer
      AND state = 'vetted'
      AND NOT EXISTS (SELECT FROM stored)
    FOR NO KEY UPDATE
), wanted AS (
    SELECT role.id, role.job_id, role.task_id, role.client_id, role.reservation_id,
           role.prep_seconds_cap, role.perform_seconds_cap,
           role.prep_seconds_cap + role.perform_seconds_cap * (1 + role.retakes_max) AS longest,
           job.currency, job.fee_basis_points, job.claim_window_seconds, job.review_seconds,
           job.specification -> 'licence' AS licence,
           rate.id AS rate_id, rate.lineage_id, rate.rate_minor_per_hour,
           clock.now, clock.second
    FROM clock
    CROSS JOIN performer
    JOIN role ON role.id = :role
    JOIN job ON job.id = role.job_id
    JOIN LATERAL (
        SELECT id, lineage_id, rate_minor_per_hour
        FROM rate
        WHERE rate.lineage_id = job.lineage_id AND effective_from <= clock.second
        ORDER BY effective_from DESC, number DESC
        LIMIT 1
    ) AS rate ON true
    WHERE job.state = 'open'
      -- Nothing new begins while a bank takes back what the client paid; live claims are paid.
      AND NOT EXISTS (
          SELECT FROM dispute WHERE dispute.client_id = job.client_id AND dispute.state = 'open'
      )
      AND performer.live_claims < performer.claims_limit
      AND job.skills <@ performer.skills
      AND speaks_one_of(performer.languages, job.languages)
      AND NOT EXISTS (
          SELECT FROM client_member
          WHERE person_id = :performer AND client_member.client_id = job.client_id
      )
      AND NOT EXISTS (
          SELECT FROM claim WHERE claim.performer_id = :performer AND claim.task_id = role.task_id
      )
      -- Told from before the locks; `guard_claim` counts again under them.
      AND (
          SELECT count(*) FROM claim
          WHERE claim.performer_id = :performer AND claim.job_id = role.job_id
            AND claim.state NOT IN ('released', 'expired')
      ) < job.most_roles_of_one
), held AS (
    UPDATE role SET state = 'held', state_reason = NULL
    FROM wanted
    WHERE role.id = wanted.id
      AND role.state = 'open'
      -- The reserve covers the worst case at the rate that is being locked.
      AND cost_minor(wanted.longest, wanted.rate_minor_per_hour, wanted.fee_basis_points) <= (
          SELECT balance_minor FROM account_balance
          WHERE account_id = account_id('job_reserve', role.reservation_id, wanted.currency)
      )
    RETURNING wanted.*
), granted AS (
    INSERT INTO consent_grant (
        id, performer_id, client_id, licence_version, licence_sha256, allowed_uses, forbidden_uses,
        territory, exclusive, term_ends_at, consideration, method
    )
    SELECT :consent_grant, :performer, client_id, licence ->> 'version',
           encode(sha256(convert_to(licence ->> 'text', 'UTF8')), 'hex'),
           ARRAY(SELECT jsonb_array_elements_text(licence -> 'allowed_uses')),
           ARRAY(SELECT jsonb_array_elements_text(licence -> 'forbidden_uses')),
           licence ->> 'territory', (licence ->> 'exclusive')::boolean,
           -- Months are counted in UTC, whatever the session's time zone.
           (now AT TIME ZONE 'UTC' + make_interval(months => (licence ->> 'term_months')::int))
               AT TIME ZONE 'UTC',
           rate_minor_per_hour || ' ' || currency || ' minor units per hour of work', 'api_claim'
    FROM held
    RETURNING id
), claimed AS (
    INSERT INTO claim (
        id, role_id, task_id, job_id, client_id, performer_id, state, rate_id, lineage_id, currency,
        rate_minor_per_hour, fee_basis_points, consent_grant_id, claimed_at, deadline, pay_by,
        retakes_granted
    )
    SELECT :claim, held.id, task_id, job_id, client_id, :performer, 'active', rate_id, lineage_id,
           currency, rate_minor_per_hour, fee_basis_points, granted.id, second,
           second + make_interval(secs => claim_window_seconds),
           pay_by(second + make_interval(
               secs => claim_window_seconds + prep_seconds_cap + perform_seconds_cap
           ), review_seconds),
           0
    FROM held CROSS JOIN granted
    RETURNING *
), answer AS (
    SELECT jsonb_build_object(
        'id', id, 'state', state, 'state_reason', state_reason, 'role_id', role_id,
        'task_id', task_id, 'job_id', job_id, 'rate_id', rate_id,
        'rate_minor_per_hour', rate_minor_per_hour, 'currency', currency,
        'consent_grant_id', consent_grant_id, 'claimed_at', api_time(claimed_at),
        'deadline', api_time(deadline), 'pay_by', api_time(pay_by),
        'retakes_granted', retakes_granted, 'pay_due_at', null
    )::text AS body
    FROM claimed
), kept AS (
    INSERT INTO idempotency_key (principal_id, operation, key, request_hash, status, body)
    SELECT :performer, 'make_claim', :key, :request_hash, 201, body FROM answer
)
SELECT 201 AS status, body, :request_hash AS request_hash, false AS replayed FROM answer
UNION ALL
SELECT status, body, request_hash, true FROM stored
