"""Who could decide alone what two people must, and who did what in each payout run."""

from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reports.tables import Report
from marketplace.shared.database import rows

# Whoever is of finance may prepare a run and approve another; the database keeps the two apart in
# each run. What else they are may make them judges in their own cause.
PEOPLE = """
    WITH role_then AS (
        SELECT person_id, role FROM person_role WHERE granted_at <= :as_of
        UNION
        SELECT subject_id, detail ->> 'role' FROM audit_event
        WHERE subject_type = 'person' AND action = 'role_taken_back' AND booked_at > :as_of
          AND coalesce((detail ->> 'granted_at')::timestamptz <= :as_of, true)
    ), member_then AS (
        SELECT person_id, client_id FROM client_member WHERE joined_at <= :as_of
        UNION
        SELECT subject_id, (detail ->> 'client_id')::uuid FROM audit_event
        WHERE subject_type = 'person' AND action = 'member_removed' AND booked_at > :as_of
          AND coalesce((detail ->> 'joined_at')::timestamptz <= :as_of, true)
    )
    SELECT person.id AS person_id, array_agg(own.role ORDER BY own.role) AS roles,
           member.client_id,
           array_remove(ARRAY[
               CASE WHEN bool_or(own.role = 'performer') THEN 'is_paid' END,
               CASE WHEN bool_or(own.role = 'operator') THEN 'grants_roles' END,
               CASE WHEN bool_or(own.role = 'reviewer') THEN 'decides_pay' END,
               CASE WHEN member.client_id IS NOT NULL THEN 'acts_for_a_client' END
           ], NULL) AS conflicts
    FROM person
    JOIN role_then AS own ON own.person_id = person.id
    LEFT JOIN member_then AS member ON member.person_id = person.id
    GROUP BY person.id, member.client_id
    HAVING bool_or(own.role = 'finance')
    ORDER BY person.id
"""

COLUMNS = ("run_id", "subject_type", "subject_id", "deed", "actor", "reason", "done_at")

# What people did: sweeps and Stripe's events only carry it out.
DEEDS = """
    SELECT coalesce(run.id, payout.run_id, paid.run_id) AS run_id, subject_type, subject_id,
           coalesce(to_state, action) AS deed, actor, event.reason, booked_at AS done_at
    FROM audit_event AS event
    LEFT JOIN payout_run AS run ON subject_type = 'payout_run' AND run.id = subject_id
    LEFT JOIN payout ON subject_type = 'payout' AND payout.id = subject_id
    LEFT JOIN transfer_reversal AS reversal
        ON subject_type = 'transfer_reversal' AND reversal.id = subject_id
    LEFT JOIN payout AS paid ON paid.id = reversal.payout_id
    WHERE (subject_type IN ('payout_run', 'payout', 'transfer_reversal') AND action = 'moved'
        OR subject_type = 'payout_account' AND action = 'account_retired')
      AND booked_at <= :as_of AND actor !~ '^(sweep|stripe):'
    ORDER BY event.id
"""


async def duties(session: AsyncSession, as_of: datetime) -> Report:
    """People of finance and what else they are, by the roles they held at that moment, and what was
    done until then.
    """
    return Report(
        as_of=as_of,
        columns=COLUMNS,
        lines=await rows(session, DEEDS, as_of=as_of),
        heading={"people": await rows(session, PEOPLE, as_of=as_of)},
        name="duties",
        lines_name="deeds",
    )
