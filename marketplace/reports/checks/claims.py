"""Live claims fit their roles, and open roles are reserved for."""

I6 = """
    SELECT format('role %s is %s with %s live claims', role.id, role.state, live) AS violation
    FROM role
    JOIN LATERAL (
        SELECT count(*) AS live FROM claim
        WHERE claim.role_id = role.id
          AND claim.state IN ('active', 'in_session', 'submitted', 'retake')
    ) AS claims ON true
    WHERE live <> CASE role.state WHEN 'held' THEN 1 ELSE 0 END
    UNION ALL
    SELECT format('performer %s has a counter of %s and %s live claims',
                  person_id, live_claims, live)
    FROM performer
    JOIN LATERAL (
        SELECT count(*) AS live FROM claim
        WHERE claim.performer_id = person_id
          AND claim.state IN ('active', 'in_session', 'retake')
    ) AS claims ON true
    WHERE live_claims <> live
    UNION ALL
    SELECT format('role %s is open with %s reserved, its worst case costs %s',
                  role.id, coalesce(balance_minor, 0), needed)
    FROM role
    JOIN job ON job.id = role.job_id
    JOIN LATERAL (
        SELECT cost_minor(
            role.prep_seconds_cap + role.perform_seconds_cap * (1 + role.retakes_max),
            rate_minor_per_hour, job.fee_basis_points) AS needed
        FROM rate
        WHERE rate.lineage_id = job.lineage_id AND effective_from <= marketplace_now()
        ORDER BY effective_from DESC, number DESC LIMIT 1
    ) AS worst ON true
    LEFT JOIN account_balance
        ON account_id = account_id('job_reserve', role.reservation_id, job.currency)
    WHERE role.state = 'open' AND coalesce(balance_minor, 0) < needed
    UNION ALL
    -- Until it is decided, the worst case of a claim is set aside, at the rate that it locked.
    SELECT format('claim %s is %s with %s reserved, its worst case costs %s',
                  claim.id, claim.state, coalesce(balance_minor, 0), needed)
    FROM claim
    JOIN role ON role.id = claim.role_id
    CROSS JOIN LATERAL cost_minor(
        role.prep_seconds_cap + role.perform_seconds_cap * (1 + role.retakes_max),
        claim.rate_minor_per_hour, claim.fee_basis_points) AS needed
    LEFT JOIN account_balance
        ON account_id = account_id('job_reserve', role.reservation_id, claim.currency)
    WHERE claim.state IN ('active', 'in_session', 'submitted', 'retake')
      AND coalesce(balance_minor, 0) < needed
"""
