-- The board: open roles this performer may claim now, best fit first, as JSON.
-- Fit is a matter of the job, so jobs are ordered first and their roles read by keyset.
WITH performer AS (
    SELECT person_id, languages, accents, skills, age_band
    FROM performer
    WHERE person_id = :performer AND state = 'vetted'
), fitting AS (
    SELECT job.*, reasons.fit, reasons.fit_reasons
    FROM performer
    CROSS JOIN job
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(points), 0) AS fit,
               coalesce(jsonb_agg(jsonb_build_object(
                   'factor', factor, 'matched', matched, 'points', points
               ) ORDER BY points DESC, factor), '[]') AS fit_reasons
        FROM (
            SELECT 'language' AS factor, to_jsonb(exact) AS matched, 4 AS points
            FROM (SELECT array_agg(tag ORDER BY tag) AS exact FROM unnest(job.languages) AS tag
                  WHERE tag = ANY (performer.languages)) AS spoken
            WHERE exact IS NOT NULL
            UNION ALL
            SELECT 'accent', to_jsonb(accents), 3
            FROM (SELECT array_agg(accent ORDER BY accent) AS accents
                  FROM unnest(job.accents) AS accent
                  WHERE accent = ANY (performer.accents)) AS preferred
            WHERE accents IS NOT NULL
            UNION ALL
            SELECT 'age_band', to_jsonb(performer.age_band), 2
            WHERE performer.age_band = ANY (job.age_bands)
        ) AS factors
    ) AS reasons
    WHERE job.state = 'open'
      AND job.skills <@ performer.skills
      AND speaks_one_of(performer.languages, job.languages)
      AND NOT EXISTS (
          SELECT FROM client_member
          WHERE client_member.person_id = performer.person_id
            AND client_member.client_id = job.client_id
      )
      -- Who filled their share of a job leaves the rest to others.
      AND (
          SELECT count(*) FROM claim
          WHERE claim.performer_id = performer.person_id AND claim.job_id = job.id
            AND claim.state NOT IN ('released', 'expired')
      ) < job.most_roles_of_one
      AND (CAST(:job AS uuid) IS NULL OR job.id = :job)
      AND (CAST(:language AS text) IS NULL OR CAST(:language AS text) = ANY (job.languages))
      AND (
          CAST(:elicitation AS text) IS NULL
          OR job.specification ->> 'elicitation' = CAST(:elicitation AS text)
      )
), page AS (
    SELECT fitting.id AS job_id, fitting.fit, fitting.fit_reasons, open_role.id AS role_id,
           rate.id AS rate_id, rate.rate_minor_per_hour
    FROM fitting
    JOIN LATERAL (
        SELECT rate.id, rate.rate_minor_per_hour
        FROM rate
        WHERE rate.lineage_id = fitting.lineage_id AND rate.effective_from <= marketplace_now()
        ORDER BY rate.effective_from DESC, rate.number DESC
        LIMIT 1
    ) AS rate ON true
    CROSS JOIN LATERAL (
        SELECT role.id
        FROM role
        WHERE role.job_id = fitting.id
          AND role.state = 'open'
          AND (
              CAST(:after_fit AS bigint) IS NULL
              OR fitting.fit < :after_fit
              OR fitting.fit = :after_fit AND fitting.id > :after_job
              OR fitting.fit = :after_fit AND fitting.id = :after_job AND role.id > :after_role
          )
          AND NOT EXISTS (
              SELECT FROM claim
              WHERE claim.performer_id = :performer AND claim.task_id = role.task_id
          )
        ORDER BY role.id
        LIMIT :rows
    ) AS open_role
    WHERE CAST(:minimum_rate AS bigint) IS NULL OR rate.rate_minor_per_hour >= :minimum_rate
    ORDER BY fitting.fit DESC, fitting.id, open_role.id
    LIMIT :rows
)
SELECT page.fit, page.job_id, page.role_id,
       jsonb_build_object(
           'role_id', role.id, 'task_id', role.task_id, 'job_id', job.id,
           'title', job.title, 'brief', job.brief,
           'role_name', role.name, 'role_brief', role.brief,
           'scenario', task.scenario, 'target', role.target,
           'elicitation', job.specification -> 'elicitation',
           'languages', job.languages,
           'licence', job.specification -> 'licence',
           'labels', job.specification -> 'labels',
           'audio', job.specification -> 'audio',
           'currency', job.currency,
           'rate_minor_per_hour', page.rate_minor_per_hour,
           'rate_id', page.rate_id,
           'rate_history', (
               SELECT jsonb_agg(jsonb_build_object(
                   'rate_minor_per_hour', past.rate_minor_per_hour,
                   'announced_at', api_time(past.announced_at),
                   'effective_from', api_time(past.effective_from),
                   'reason', past.reason
               ) ORDER BY past.effective_from, past.number)
               FROM rate AS past
               WHERE past.lineage_id = job.lineage_id
           ),
           'prep_seconds_cap', role.prep_seconds_cap,
           'perform_seconds_cap', role.perform_seconds_cap,
           'retakes_max', role.retakes_max,
           'claim_window_seconds', job.claim_window_seconds,
           'pay_by', api_time(pay_by(date_trunc('second', marketplace_now()) + make_interval(
               secs => job.claim_window_seconds + role.prep_seconds_cap + role.perform_seconds_cap
           ), job.review_seconds)),
           'fit', page.fit, 'fit_reasons', page.fit_reasons
       )::text AS item
FROM page
JOIN role ON role.id = page.role_id
JOIN task ON task.id = role.task_id
JOIN job ON job.id = page.job_id
ORDER BY page.fit DESC, page.job_id, page.role_id
