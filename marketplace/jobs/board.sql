-- The board: open roles this performer may claim now, best fit first, as JSON.
-- Fit is a matter of the job. So jobs are ordered first, and their roles are read job by job until
-- the page is full; what is shown is looked up for the page alone.
WITH performer AS (
    SELECT person_id, languages, accents, skills, age_band, with_parents(languages) AS spoken,
           (SELECT client_id FROM client_member WHERE person_id = :performer) AS acts_for
    FROM performer
    WHERE person_id = :performer AND state = 'vetted'
), filled AS (
    SELECT job_id, count(*) AS roles
    FROM claim
    WHERE performer_id = :performer AND state NOT IN ('released', 'expired')
    GROUP BY job_id
), page AS (
    SELECT fitting.id AS job_id, fitting.fit, open_role.id AS role_id,
           rate.id AS rate_id, rate.rate_minor_per_hour
    FROM (
        SELECT job.id, job.lineage_id, matched.fit
        FROM performer
        CROSS JOIN job
        CROSS JOIN LATERAL (
            SELECT CASE WHEN job.languages && performer.languages THEN 4 ELSE 0 END
                 + CASE WHEN job.accents && performer.accents THEN 3 ELSE 0 END
                 + CASE WHEN performer.age_band = ANY (job.age_bands) THEN 2 ELSE 0 END AS fit
        ) AS matched
        WHERE job.state = 'open'
          AND NOT EXISTS (
              SELECT FROM dispute WHERE dispute.client_id = job.client_id AND dispute.state = 'open'
          )
          AND job.languages && performer.spoken
          AND job.skills <@ performer.skills
          AND job.client_id IS DISTINCT FROM performer.acts_for
          -- Who filled their share of a job leaves the rest to others.
          AND NOT EXISTS (
              SELECT FROM filled
              WHERE filled.job_id = job.id AND filled.roles >= job.most_roles_of_one
          )
          AND (CAST(:job AS uuid) IS NULL OR job.id = :job)
          AND (CAST(:language AS text) IS NULL OR CAST(:language AS text) = ANY (job.languages))
          AND (
              CAST(:elicitation AS text) IS NULL
              OR job.specification ->> 'elicitation' = CAST(:elicitation AS text)
          )
          AND (
              CAST(:after_fit AS bigint) IS NULL
              OR matched.fit < :after_fit
              OR matched.fit = :after_fit AND job.id >= :after_job
          )
        ORDER BY matched.fit DESC, job.id
    ) AS fitting
    CROSS JOIN LATERAL (
        SELECT rate.id, rate.rate_minor_per_hour
        FROM rate
        WHERE rate.lineage_id = fitting.lineage_id AND rate.effective_from <= marketplace_now()
        ORDER BY rate.effective_from DESC, rate.number DESC
        LIMIT 1
    ) AS rate
    CROSS JOIN LATERAL (
        SELECT role.id
        FROM role
        WHERE role.job_id = fitting.id
          AND role.state = 'open'
          AND (
              CAST(:after_fit AS bigint) IS NULL
              OR fitting.fit < :after_fit
              OR fitting.id > :after_job
              OR role.id > :after_role
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
), shown AS MATERIALIZED (
    -- Of each job on the page: why it stands there, and what became of its rate.
    SELECT job.*, reasons.fit_reasons, history.rate_history
    FROM performer
    CROSS JOIN job
    CROSS JOIN LATERAL (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
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
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(jsonb_build_object(
                   'rate_minor_per_hour', rate_minor_per_hour,
                   'previous_rate_minor_per_hour', previous,
                   'change_percent', change_percent(previous, rate_minor_per_hour),
                   'announced_at', api_time(announced_at),
                   'effective_from', api_time(effective_from),
                   'reason', reason
               ) ORDER BY effective_from DESC, number DESC) AS rate_history
        FROM (
            SELECT rate.*, lead(rate_minor_per_hour) OVER newest_first AS previous
            FROM rate
            WHERE rate.lineage_id = job.lineage_id
            WINDOW newest_first AS (ORDER BY effective_from DESC, number DESC)
            ORDER BY effective_from DESC, number DESC
            LIMIT 10
        ) AS change
    ) AS history
    WHERE job.id IN (SELECT job_id FROM page)
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
           'lineage_id', job.lineage_id,
           'rate_minor_per_hour', page.rate_minor_per_hour,
           'rate_id', page.rate_id,
           'rate_history', job.rate_history,
           'prep_seconds_cap', role.prep_seconds_cap,
           'perform_seconds_cap', role.perform_seconds_cap,
           'retakes_max', role.retakes_max,
           'claim_window_seconds', job.claim_window_seconds,
           'pay_by', api_time(pay_by(date_trunc('second', marketplace_now()) + make_interval(
               secs => job.claim_window_seconds + role.prep_seconds_cap + role.perform_seconds_cap
           ), job.review_seconds)),
           'fit', page.fit, 'fit_reasons', job.fit_reasons
       )::text AS item
FROM page
JOIN role ON role.id = page.role_id
JOIN task ON task.id = role.task_id
JOIN shown AS job ON job.id = page.job_id
ORDER BY page.fit DESC, page.job_id, page.role_id
