-- The tables, in the order of their references. What must never happen stands beside them as
-- constraints; what a constraint cannot say stands in 0003_guards.sql.

CREATE TABLE account (
    id uuid NOT NULL,
    kind text NOT NULL,
    owner_id uuid,
    currency text NOT NULL,
    CONSTRAINT pk_account PRIMARY KEY (id),
    CONSTRAINT uq_account_id_currency UNIQUE (id, currency),
    CONSTRAINT uq_account_identity UNIQUE NULLS NOT DISTINCT (kind, owner_id, currency),
    CONSTRAINT ck_account_kind_known CHECK (kind IN ('stripe_pending', 'stripe_available', 'stripe_fees', 'platform_expense', 'client_wallet', 'job_reserve', 'performer_payable', 'transfers_in_flight', 'platform_fees', 'platform_capital')),
    CONSTRAINT ck_account_id_follows CHECK (id = account_id(kind, owner_id, currency))
);

CREATE TABLE allowed_move (
    id SERIAL NOT NULL,
    subject text NOT NULL,
    from_state text,
    to_state text NOT NULL,
    CONSTRAINT pk_allowed_move PRIMARY KEY (id),
    CONSTRAINT uq_allowed_move UNIQUE NULLS NOT DISTINCT (subject, from_state, to_state)
);

CREATE TABLE audit_event (
    id bigint GENERATED ALWAYS AS IDENTITY,
    subject_type text NOT NULL,
    subject_id uuid NOT NULL,
    action text NOT NULL,
    from_state text,
    to_state text,
    reason text,
    detail jsonb,
    actor text DEFAULT acting() NOT NULL,
    request_id text DEFAULT acting_request(),
    booked_at timestamptz DEFAULT booking_time() NOT NULL,
    CONSTRAINT pk_audit_event PRIMARY KEY (id)
);
CREATE INDEX ix_audit_event_subject ON audit_event (subject_type, subject_id, id);

CREATE TABLE client (
    id uuid NOT NULL,
    name text NOT NULL,
    currency text NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_client PRIMARY KEY (id)
);

CREATE TABLE idempotency_key (
    principal_id uuid NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    request_hash text NOT NULL,
    status integer,
    body text,
    etag text,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_idempotency_key PRIMARY KEY (principal_id, operation, key)
);
CREATE INDEX ix_idempotency_key_created_at ON idempotency_key (created_at);

CREATE TABLE ledger_transaction (
    id uuid NOT NULL,
    kind text NOT NULL,
    source_type text NOT NULL,
    source_id uuid NOT NULL,
    currency text NOT NULL,
    occurred_at timestamptz NOT NULL,
    booked_at timestamptz DEFAULT booking_time() NOT NULL,
    accounting_date date NOT NULL,
    written_by_xid text DEFAULT '' NOT NULL,
    written_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_ledger_transaction PRIMARY KEY (id),
    CONSTRAINT uq_ledger_transaction_id_currency UNIQUE (id, currency),
    CONSTRAINT uq_ledger_transaction_event UNIQUE (kind, source_type, source_id),
    CONSTRAINT ck_ledger_transaction_source_known CHECK ((kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'), ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'), ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'), ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'), ('transfer_refused', 'payout_attempt')))
);
CREATE INDEX ix_ledger_transaction_booked_at ON ledger_transaction (booked_at);
CREATE INDEX ix_ledger_transaction_source ON ledger_transaction (source_id);

CREATE TABLE person (
    id uuid NOT NULL,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_person PRIMARY KEY (id)
);
CREATE UNIQUE INDEX uq_person_email ON person (lower(email));

CREATE TABLE sign_in_failure (
    email_hash text NOT NULL,
    failures integer NOT NULL,
    window_started_at timestamptz NOT NULL,
    CONSTRAINT pk_sign_in_failure PRIMARY KEY (email_hash)
);

CREATE TABLE sweep_slot (
    sweep text NOT NULL,
    slot_at timestamptz NOT NULL,
    taken_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_sweep_slot PRIMARY KEY (sweep, slot_at)
);

CREATE TABLE poll_mark (
    one integer NOT NULL,
    events_read_to timestamptz NOT NULL,
    CONSTRAINT pk_poll_mark PRIMARY KEY (one),
    CONSTRAINT ck_poll_mark_single_row CHECK (one = 1)
);

CREATE TABLE stripe_event (
    id text NOT NULL,
    type text NOT NULL,
    account text,
    object_id text NOT NULL,
    created timestamptz NOT NULL,
    payload jsonb NOT NULL,
    received_at timestamptz DEFAULT marketplace_now() NOT NULL,
    due_at timestamptz DEFAULT marketplace_now() NOT NULL,
    handled_at timestamptz,
    tries integer NOT NULL,
    last_error text,
    CONSTRAINT pk_stripe_event PRIMARY KEY (id)
);
CREATE INDEX ix_stripe_event_created ON stripe_event (created);
CREATE INDEX ix_stripe_event_due_at ON stripe_event (due_at) WHERE handled_at IS NULL;

CREATE TABLE access_token (
    id uuid NOT NULL,
    token_hash text NOT NULL,
    person_id uuid,
    client_id uuid,
    name text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    created_by uuid,
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT pk_access_token PRIMARY KEY (id),
    CONSTRAINT ck_access_token_one_holder CHECK (num_nonnulls(person_id, client_id) = 1),
    CONSTRAINT uq_access_token_token_hash UNIQUE (token_hash),
    CONSTRAINT fk_access_token_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_access_token_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_access_token_created_by FOREIGN KEY(created_by) REFERENCES person (id)
);
CREATE INDEX ix_access_token_client_id ON access_token (client_id);
CREATE INDEX ix_access_token_person_id ON access_token (person_id);

CREATE TABLE account_balance (
    account_id uuid NOT NULL,
    balance_minor bigint NOT NULL,
    CONSTRAINT pk_account_balance PRIMARY KEY (account_id),
    CONSTRAINT ck_account_balance_covered CHECK (balance_minor >= 0),
    CONSTRAINT fk_account_balance_account_id FOREIGN KEY(account_id) REFERENCES account (id)
);

CREATE TABLE booked_balance_transaction (
    id text NOT NULL,
    net_minor bigint NOT NULL,
    currency text NOT NULL,
    ledger_transaction_id uuid NOT NULL,
    booked_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_booked_balance_transaction PRIMARY KEY (id),
    CONSTRAINT uq_booked_balance_transaction_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_booked_balance_transaction_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);

CREATE TABLE client_member (
    person_id uuid NOT NULL,
    client_id uuid NOT NULL,
    joined_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_client_member PRIMARY KEY (person_id),
    CONSTRAINT fk_client_member_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_client_member_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_client_member_client_id ON client_member (client_id);

CREATE TABLE consent_grant (
    id uuid NOT NULL,
    performer_id uuid NOT NULL,
    client_id uuid NOT NULL,
    licence_version text NOT NULL,
    licence_sha256 text NOT NULL,
    allowed_uses text[] NOT NULL,
    forbidden_uses text[] NOT NULL,
    territory text NOT NULL,
    exclusive boolean NOT NULL,
    term_ends_at timestamptz,
    consideration text NOT NULL,
    method text NOT NULL,
    signed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_consent_grant PRIMARY KEY (id),
    CONSTRAINT fk_consent_grant_performer_id FOREIGN KEY(performer_id) REFERENCES person (id),
    CONSTRAINT fk_consent_grant_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_consent_grant_performer_id ON consent_grant (performer_id);

CREATE TABLE deposit (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    idempotency_key text NOT NULL,
    success_url text NOT NULL,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    checkout_session_id text,
    checkout_url text,
    fee_minor bigint,
    available_on timestamptz,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_deposit PRIMARY KEY (id),
    CONSTRAINT uq_deposit_client_id_idempotency_key UNIQUE (client_id, idempotency_key),
    CONSTRAINT ck_deposit_positive CHECK (amount_minor > 0),
    CONSTRAINT fk_deposit_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT uq_deposit_checkout_session_id UNIQUE (checkout_session_id)
);
CREATE INDEX ix_deposit_due_at ON deposit (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE feed_event (
    client_id uuid NOT NULL,
    position bigint NOT NULL,
    audit_event_id bigint NOT NULL,
    CONSTRAINT pk_feed_event PRIMARY KEY (client_id, position),
    CONSTRAINT fk_feed_event_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT uq_feed_event_audit_event_id UNIQUE (audit_event_id),
    CONSTRAINT fk_feed_event_audit_event_id FOREIGN KEY(audit_event_id) REFERENCES audit_event (id)
);

CREATE TABLE invite (
    id uuid NOT NULL,
    code_hash text NOT NULL,
    role text,
    client_id uuid,
    invited_by uuid,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    used_by uuid,
    CONSTRAINT pk_invite PRIMARY KEY (id),
    CONSTRAINT ck_invite_one_purpose CHECK (num_nonnulls(role, client_id) = 1),
    CONSTRAINT ck_invite_role_known CHECK (role IN ('performer', 'reviewer', 'finance', 'operator')),
    CONSTRAINT uq_invite_code_hash UNIQUE (code_hash),
    CONSTRAINT fk_invite_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_invite_invited_by FOREIGN KEY(invited_by) REFERENCES person (id),
    CONSTRAINT fk_invite_used_by FOREIGN KEY(used_by) REFERENCES person (id)
);

CREATE TABLE ledger_entry (
    id uuid DEFAULT uuidv7() NOT NULL,
    transaction_id uuid NOT NULL,
    account_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT pk_ledger_entry PRIMARY KEY (id),
    CONSTRAINT fk_ledger_entry_transaction_id_currency FOREIGN KEY(transaction_id, currency) REFERENCES ledger_transaction (id, currency),
    CONSTRAINT fk_ledger_entry_account_id_currency FOREIGN KEY(account_id, currency) REFERENCES account (id, currency),
    CONSTRAINT ck_ledger_entry_not_zero CHECK (amount_minor <> 0)
);
CREATE INDEX ix_ledger_entry_account_id ON ledger_entry (account_id, id);
CREATE INDEX ix_ledger_entry_transaction_id ON ledger_entry (transaction_id);

CREATE TABLE minimum_rate (
    id uuid NOT NULL,
    currency text NOT NULL,
    rate_minor_per_hour bigint NOT NULL,
    effective_from timestamptz DEFAULT marketplace_now() NOT NULL,
    reason text NOT NULL,
    set_by uuid,
    CONSTRAINT pk_minimum_rate PRIMARY KEY (id),
    CONSTRAINT ck_minimum_rate_positive CHECK (rate_minor_per_hour > 0),
    CONSTRAINT fk_minimum_rate_set_by FOREIGN KEY(set_by) REFERENCES person (id)
);
CREATE INDEX ix_minimum_rate_currency ON minimum_rate (currency, effective_from);

CREATE TABLE outbox (
    audit_event_id bigint NOT NULL,
    client_id uuid NOT NULL,
    CONSTRAINT pk_outbox PRIMARY KEY (audit_event_id),
    CONSTRAINT fk_outbox_audit_event_id FOREIGN KEY(audit_event_id) REFERENCES audit_event (id),
    CONSTRAINT fk_outbox_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_outbox_client_id ON outbox (client_id);

CREATE TABLE password_reset (
    id uuid NOT NULL,
    code_hash text NOT NULL,
    person_id uuid NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CONSTRAINT pk_password_reset PRIMARY KEY (id),
    CONSTRAINT uq_password_reset_code_hash UNIQUE (code_hash),
    CONSTRAINT fk_password_reset_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);

CREATE TABLE payout_run (
    id uuid NOT NULL,
    currency text NOT NULL,
    state text NOT NULL,
    state_reason text,
    slot_at timestamptz,
    cut_off_at timestamptz NOT NULL,
    prepared_by uuid,
    prepared_at timestamptz DEFAULT marketplace_now() NOT NULL,
    approved_by uuid,
    approved_at timestamptz,
    CONSTRAINT pk_payout_run PRIMARY KEY (id),
    CONSTRAINT uq_payout_run_currency_slot_at UNIQUE (currency, slot_at),
    CONSTRAINT ck_payout_run_second_person CHECK (approved_by <> prepared_by),
    CONSTRAINT ck_payout_run_approved_by_somebody CHECK ((state = 'approved') = (approved_by IS NOT NULL)),
    CONSTRAINT fk_payout_run_prepared_by FOREIGN KEY(prepared_by) REFERENCES person (id),
    CONSTRAINT fk_payout_run_approved_by FOREIGN KEY(approved_by) REFERENCES person (id)
);

CREATE TABLE performer (
    person_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    languages text[] NOT NULL,
    accents text[] NOT NULL,
    skills text[] NOT NULL,
    age_band text,
    time_zone text NOT NULL,
    work_country text NOT NULL,
    claims_limit integer NOT NULL,
    live_claims integer NOT NULL,
    version integer NOT NULL,
    applied_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_performer PRIMARY KEY (person_id),
    CONSTRAINT ck_performer_age_band_known CHECK (age_band IN ('18-24', '25-34', '35-44', '45-54', '55-64', '65+')),
    CONSTRAINT ck_performer_live_claims_not_negative CHECK (live_claims >= 0),
    CONSTRAINT ck_performer_claims_limit_positive CHECK (claims_limit > 0),
    CONSTRAINT fk_performer_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);

CREATE TABLE person_role (
    person_id uuid NOT NULL,
    role text NOT NULL,
    granted_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_person_role PRIMARY KEY (person_id, role),
    CONSTRAINT ck_person_role_role_known CHECK (role IN ('performer', 'reviewer', 'finance', 'operator')),
    CONSTRAINT fk_person_role_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);

CREATE TABLE rate_lineage (
    id uuid NOT NULL,
    client_id uuid,
    currency text NOT NULL,
    elicitation text NOT NULL,
    languages text NOT NULL,
    role_profile text NOT NULL,
    separation integer NOT NULL,
    separation_reason text,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_rate_lineage PRIMARY KEY (id),
    CONSTRAINT uq_rate_lineage_identity UNIQUE NULLS NOT DISTINCT (client_id, currency, elicitation, languages, role_profile, separation),
    CONSTRAINT uq_rate_lineage_id_currency UNIQUE (id, currency),
    CONSTRAINT ck_rate_lineage_separation_has_reason CHECK ((separation = 0) = (separation_reason IS NULL)),
    CONSTRAINT fk_rate_lineage_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);

CREATE TABLE recording (
    id uuid NOT NULL,
    owner_id uuid NOT NULL,
    client_id uuid,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    check_tries integer NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 text NOT NULL,
    tier text NOT NULL,
    longest_seconds integer NOT NULL,
    report jsonb,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_recording PRIMARY KEY (id),
    CONSTRAINT ck_recording_size_positive CHECK (size_bytes > 0),
    CONSTRAINT ck_recording_tier_known CHECK (tier IN ('studio', 'phone')),
    CONSTRAINT fk_recording_owner_id FOREIGN KEY(owner_id) REFERENCES person (id),
    CONSTRAINT fk_recording_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_recording_due_at ON recording (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_recording_owner_id ON recording (owner_id);

CREATE TABLE reservation (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    currency text NOT NULL,
    subject_id uuid NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_reservation PRIMARY KEY (id),
    CONSTRAINT uq_reservation_id_client_id UNIQUE (id, client_id),
    CONSTRAINT uq_reservation_id_client_id_currency UNIQUE (id, client_id, currency),
    CONSTRAINT fk_reservation_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_reservation_client_id ON reservation (client_id);
CREATE INDEX ix_reservation_subject_id ON reservation (subject_id);

CREATE TABLE topup (
    id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    requested_by uuid NOT NULL,
    idempotency_key text NOT NULL,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    stripe_topup_id text,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_topup PRIMARY KEY (id),
    CONSTRAINT uq_topup_requested_by_idempotency_key UNIQUE (requested_by, idempotency_key),
    CONSTRAINT ck_topup_positive CHECK (amount_minor > 0),
    CONSTRAINT fk_topup_requested_by FOREIGN KEY(requested_by) REFERENCES person (id),
    CONSTRAINT uq_topup_stripe_topup_id UNIQUE (stripe_topup_id)
);
CREATE INDEX ix_topup_due_at ON topup (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE consent_withdrawal (
    id uuid NOT NULL,
    consent_grant_id uuid NOT NULL,
    reason text,
    withdrawn_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_consent_withdrawal PRIMARY KEY (id),
    CONSTRAINT uq_consent_withdrawal_consent_grant_id UNIQUE (consent_grant_id),
    CONSTRAINT fk_consent_withdrawal_consent_grant_id FOREIGN KEY(consent_grant_id) REFERENCES consent_grant (id)
);

CREATE TABLE download_link (
    id uuid NOT NULL,
    token_hash text NOT NULL,
    client_id uuid NOT NULL,
    recording_id uuid NOT NULL,
    consent_grant_id uuid NOT NULL,
    made_by uuid NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_download_link PRIMARY KEY (id),
    CONSTRAINT uq_download_link_token_hash UNIQUE (token_hash),
    CONSTRAINT fk_download_link_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_download_link_recording_id FOREIGN KEY(recording_id) REFERENCES recording (id),
    CONSTRAINT fk_download_link_consent_grant_id FOREIGN KEY(consent_grant_id) REFERENCES consent_grant (id)
);
CREATE INDEX ix_download_link_recording_id ON download_link (recording_id);

CREATE TABLE job (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    title text NOT NULL,
    brief text NOT NULL,
    specification jsonb NOT NULL,
    languages text[] NOT NULL,
    skills text[] NOT NULL,
    accents text[] NOT NULL,
    age_bands text[] NOT NULL,
    most_roles_of_one integer NOT NULL,
    lineage_id uuid NOT NULL,
    currency text NOT NULL,
    asked_rate_minor_per_hour bigint NOT NULL,
    fee_basis_points integer,
    prep_seconds_cap integer NOT NULL,
    perform_seconds_cap integer NOT NULL,
    retakes_max integer NOT NULL,
    claim_window_seconds integer NOT NULL,
    review_seconds integer NOT NULL,
    published_at timestamptz,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    version integer NOT NULL,
    CONSTRAINT pk_job PRIMARY KEY (id),
    CONSTRAINT fk_job_lineage FOREIGN KEY(lineage_id, currency) REFERENCES rate_lineage (id, currency),
    CONSTRAINT uq_job_id_client_id_lineage_id UNIQUE (id, client_id, lineage_id),
    CONSTRAINT ck_job_retakes_max_allowed CHECK (retakes_max BETWEEN 0 AND 2),
    CONSTRAINT ck_job_one_role_each CHECK (most_roles_of_one > 0),
    CONSTRAINT fk_job_client_id FOREIGN KEY(client_id) REFERENCES client (id)
);
CREATE INDEX ix_job_client_id ON job (client_id, id);
CREATE INDEX ix_job_closing ON job (id) WHERE state = 'closing';
CREATE INDEX ix_job_board ON job USING gin (languages) WHERE state = 'open';

CREATE TABLE payout (
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    destination text NOT NULL,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    tries integer DEFAULT '0' NOT NULL,
    transfer_id text,
    CONSTRAINT pk_payout PRIMARY KEY (id),
    CONSTRAINT uq_payout_run_id_performer_id UNIQUE (run_id, performer_id),
    CONSTRAINT ck_payout_positive CHECK (amount_minor > 0),
    CONSTRAINT fk_payout_run_id FOREIGN KEY(run_id) REFERENCES payout_run (id),
    CONSTRAINT fk_payout_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id),
    CONSTRAINT uq_payout_transfer_id UNIQUE (transfer_id)
);
CREATE INDEX ix_payout_due_at ON payout (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_payout_performer_id ON payout (performer_id, id);

CREATE TABLE payout_account (
    performer_id uuid NOT NULL,
    key_number integer NOT NULL,
    asked_email text,
    asked_country text,
    stripe_account_id text,
    transfers text NOT NULL,
    requirement text,
    seen_at timestamptz,
    due_at timestamptz,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_payout_account PRIMARY KEY (performer_id),
    CONSTRAINT ck_payout_account_transfers_known CHECK (transfers IN ('unrequested', 'pending', 'inactive', 'active')),
    CONSTRAINT fk_payout_account_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id),
    CONSTRAINT uq_payout_account_stripe_account_id UNIQUE (stripe_account_id)
);
CREATE INDEX ix_payout_account_due_at ON payout_account (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE payout_exclusion (
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    remedy text NOT NULL,
    next_run_at timestamptz NOT NULL,
    CONSTRAINT pk_payout_exclusion PRIMARY KEY (id),
    CONSTRAINT uq_payout_exclusion_run_id_performer_id UNIQUE (run_id, performer_id),
    CONSTRAINT ck_payout_exclusion_reason_known CHECK (reason IN ('no_account', 'account_not_active', 'below_minimum')),
    CONSTRAINT fk_payout_exclusion_run_id FOREIGN KEY(run_id) REFERENCES payout_run (id),
    CONSTRAINT fk_payout_exclusion_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id)
);
CREATE INDEX ix_payout_exclusion_performer_id ON payout_exclusion (performer_id);

CREATE TABLE rate (
    id uuid NOT NULL,
    lineage_id uuid NOT NULL,
    number integer DEFAULT '0' NOT NULL,
    currency text NOT NULL,
    rate_minor_per_hour bigint NOT NULL,
    announced_at timestamptz DEFAULT marketplace_now() NOT NULL,
    effective_from timestamptz DEFAULT marketplace_now() NOT NULL,
    reason text NOT NULL,
    announced_by uuid NOT NULL,
    booked_at timestamptz DEFAULT booking_time() NOT NULL,
    CONSTRAINT pk_rate PRIMARY KEY (id),
    CONSTRAINT fk_rate_lineage_id_currency FOREIGN KEY(lineage_id, currency) REFERENCES rate_lineage (id, currency),
    CONSTRAINT uq_rate_id_lineage_id_currency_rate_minor_per_hour UNIQUE (id, lineage_id, currency, rate_minor_per_hour),
    CONSTRAINT ck_rate_positive CHECK (rate_minor_per_hour > 0),
    CONSTRAINT uq_rate_lineage_id_number UNIQUE (lineage_id, number)
);
CREATE INDEX ix_rate_in_force ON rate (lineage_id, effective_from DESC, number DESC);

CREATE TABLE reserve_move (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    currency text NOT NULL,
    from_reservation_id uuid,
    to_reservation_id uuid,
    amount_minor bigint NOT NULL,
    cause text NOT NULL,
    ledger_transaction_id uuid NOT NULL,
    moved_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_reserve_move PRIMARY KEY (id),
    CONSTRAINT ck_reserve_move_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_reserve_move_moves CHECK (from_reservation_id IS DISTINCT FROM to_reservation_id),
    CONSTRAINT ck_reserve_move_cause_known CHECK (cause IN ('published', 'reopened', 'rate_rose', 'awaiting_decision', 'left_over')),
    CONSTRAINT fk_reserve_move_from FOREIGN KEY(from_reservation_id, client_id, currency) REFERENCES reservation (id, client_id, currency),
    CONSTRAINT fk_reserve_move_to FOREIGN KEY(to_reservation_id, client_id, currency) REFERENCES reservation (id, client_id, currency),
    CONSTRAINT fk_reserve_move_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT uq_reserve_move_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_reserve_move_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_reserve_move_from_reservation_id ON reserve_move (from_reservation_id);
CREATE INDEX ix_reserve_move_to_reservation_id ON reserve_move (to_reservation_id);

CREATE TABLE audition (
    id uuid NOT NULL,
    performer_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    brief text NOT NULL,
    rate_id uuid NOT NULL,
    lineage_id uuid NOT NULL,
    currency text NOT NULL,
    rate_minor_per_hour bigint NOT NULL,
    seconds_cap integer NOT NULL,
    offered_at timestamptz DEFAULT marketplace_now() NOT NULL,
    due_at timestamptz,
    started_at timestamptz,
    seen_at timestamptz,
    ended_at timestamptz,
    worked_seconds integer DEFAULT 0 NOT NULL,
    recording_id uuid,
    decided_by uuid,
    paid_seconds integer,
    pay_minor bigint,
    ledger_transaction_id uuid,
    CONSTRAINT pk_audition PRIMARY KEY (id),
    CONSTRAINT fk_audition_rate FOREIGN KEY(rate_id, lineage_id, currency, rate_minor_per_hour) REFERENCES rate (id, lineage_id, currency, rate_minor_per_hour),
    CONSTRAINT ck_audition_cap_sensible CHECK (seconds_cap BETWEEN 60 AND 7200),
    CONSTRAINT ck_audition_ends_after_start CHECK (ended_at >= started_at),
    CONSTRAINT ck_audition_pay_exact CHECK (pay_minor = (2 * paid_seconds * rate_minor_per_hour + 3600) / 7200),
    CONSTRAINT ck_audition_worked_no_longer_than_it_took CHECK (worked_seconds BETWEEN 0 AND coalesce(extract(epoch FROM coalesce(ended_at, seen_at) - started_at), 0)),
    CONSTRAINT ck_audition_paid_exact CHECK (paid_seconds = least(worked_seconds, seconds_cap)),
    CONSTRAINT fk_audition_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id),
    CONSTRAINT fk_audition_recording_id FOREIGN KEY(recording_id) REFERENCES recording (id),
    CONSTRAINT fk_audition_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT uq_audition_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_audition_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_audition_due_at ON audition (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_audition_performer_id ON audition (performer_id);
CREATE UNIQUE INDEX uq_audition_live ON audition (performer_id) WHERE state IN ('offered', 'started', 'submitted');

CREATE TABLE payout_attempt (
    id uuid NOT NULL,
    payout_id uuid NOT NULL,
    number integer NOT NULL,
    idempotency_key text NOT NULL,
    request jsonb NOT NULL,
    committed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    in_flight_transaction_id uuid NOT NULL,
    outcome text,
    concluded_at timestamptz,
    transfer_id text,
    not_found_at timestamptz,
    error_code text,
    error_message text,
    stripe_request_id text,
    conclusion_transaction_id uuid,
    CONSTRAINT pk_payout_attempt PRIMARY KEY (id),
    CONSTRAINT uq_payout_attempt_payout_id_number UNIQUE (payout_id, number),
    CONSTRAINT ck_payout_attempt_outcome_known CHECK (outcome IN ('succeeded', 'refused')),
    CONSTRAINT ck_payout_attempt_concluded CHECK ((outcome IS NULL) = (concluded_at IS NULL)),
    CONSTRAINT fk_payout_attempt_payout_id FOREIGN KEY(payout_id) REFERENCES payout (id),
    CONSTRAINT uq_payout_attempt_idempotency_key UNIQUE (idempotency_key),
    CONSTRAINT uq_payout_attempt_in_flight_transaction_id UNIQUE (in_flight_transaction_id),
    CONSTRAINT fk_payout_attempt_in_flight_transaction_id FOREIGN KEY(in_flight_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT uq_payout_attempt_transfer_id UNIQUE (transfer_id),
    CONSTRAINT uq_payout_attempt_conclusion_transaction_id UNIQUE (conclusion_transaction_id),
    CONSTRAINT fk_payout_attempt_conclusion_transaction_id FOREIGN KEY(conclusion_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE UNIQUE INDEX uq_payout_attempt_open ON payout_attempt (payout_id) WHERE outcome IS NULL;

CREATE TABLE payout_line (
    id uuid NOT NULL,
    payout_id uuid NOT NULL,
    ledger_entry_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    released_at timestamptz,
    CONSTRAINT pk_payout_line PRIMARY KEY (id),
    CONSTRAINT ck_payout_line_positive CHECK (amount_minor > 0),
    CONSTRAINT fk_payout_line_payout_id FOREIGN KEY(payout_id) REFERENCES payout (id),
    CONSTRAINT fk_payout_line_ledger_entry_id FOREIGN KEY(ledger_entry_id) REFERENCES ledger_entry (id)
);
CREATE INDEX ix_payout_line_payout_id ON payout_line (payout_id);
CREATE UNIQUE INDEX uq_payout_line_entry ON payout_line (ledger_entry_id) WHERE released_at IS NULL;

CREATE TABLE task (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    number integer NOT NULL,
    scenario jsonb NOT NULL,
    CONSTRAINT pk_task PRIMARY KEY (id),
    CONSTRAINT uq_task_job_id_number UNIQUE (job_id, number),
    CONSTRAINT uq_task_id_job_id UNIQUE (id, job_id),
    CONSTRAINT fk_task_job_id FOREIGN KEY(job_id) REFERENCES job (id)
);

CREATE TABLE role (
    id uuid NOT NULL,
    task_id uuid NOT NULL,
    job_id uuid NOT NULL,
    client_id uuid NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    brief text NOT NULL,
    target jsonb NOT NULL,
    prep_seconds_cap integer NOT NULL,
    perform_seconds_cap integer NOT NULL,
    retakes_max integer NOT NULL,
    state text NOT NULL,
    state_reason text,
    reservation_id uuid,
    CONSTRAINT pk_role PRIMARY KEY (id),
    CONSTRAINT uq_role_task_id_number UNIQUE (task_id, number),
    CONSTRAINT uq_role_id_task_id_job_id_client_id UNIQUE (id, task_id, job_id, client_id),
    CONSTRAINT fk_role_task FOREIGN KEY(task_id, job_id) REFERENCES task (id, job_id),
    CONSTRAINT ck_role_number_allowed CHECK (number BETWEEN 1 AND 4),
    CONSTRAINT ck_role_reserved CHECK (state IN ('unfunded', 'withdrawn') OR reservation_id IS NOT NULL),
    CONSTRAINT ck_role_caps_sensible CHECK (prep_seconds_cap >= 0 AND perform_seconds_cap > 0 AND retakes_max BETWEEN 0 AND 2),
    CONSTRAINT fk_role_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT uq_role_reservation_id UNIQUE (reservation_id),
    CONSTRAINT fk_role_reservation FOREIGN KEY(reservation_id, client_id) REFERENCES reservation (id, client_id)
);
CREATE INDEX ix_role_board ON role (job_id, id) WHERE state = 'open';
CREATE INDEX ix_role_job_id ON role (job_id, state);

CREATE TABLE claim (
    id uuid NOT NULL,
    role_id uuid NOT NULL,
    task_id uuid NOT NULL,
    job_id uuid NOT NULL,
    client_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    rate_id uuid NOT NULL,
    lineage_id uuid NOT NULL,
    currency text NOT NULL,
    rate_minor_per_hour bigint NOT NULL,
    fee_basis_points integer NOT NULL,
    consent_grant_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    pay_by timestamptz NOT NULL,
    retakes_granted integer NOT NULL,
    reservation_id uuid,
    pay_due_at timestamptz,
    CONSTRAINT pk_claim PRIMARY KEY (id),
    CONSTRAINT fk_claim_role FOREIGN KEY(role_id, task_id, job_id, client_id) REFERENCES role (id, task_id, job_id, client_id),
    CONSTRAINT fk_claim_rate FOREIGN KEY(rate_id, lineage_id, currency, rate_minor_per_hour) REFERENCES rate (id, lineage_id, currency, rate_minor_per_hour),
    CONSTRAINT uq_claim_price UNIQUE (id, performer_id, rate_id, rate_minor_per_hour, fee_basis_points, currency),
    CONSTRAINT uq_claim_id_performer_id UNIQUE (id, performer_id),
    CONSTRAINT uq_claim_performer_id_task_id UNIQUE (performer_id, task_id),
    CONSTRAINT ck_claim_retakes_allowed CHECK (retakes_granted BETWEEN 0 AND 2),
    CONSTRAINT fk_claim_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id),
    CONSTRAINT uq_claim_consent_grant_id UNIQUE (consent_grant_id),
    CONSTRAINT fk_claim_consent_grant_id FOREIGN KEY(consent_grant_id) REFERENCES consent_grant (id),
    CONSTRAINT fk_claim_lineage FOREIGN KEY(job_id, client_id, lineage_id) REFERENCES job (id, client_id, lineage_id),
    CONSTRAINT fk_claim_reservation FOREIGN KEY(reservation_id, client_id, currency) REFERENCES reservation (id, client_id, currency)
);
CREATE INDEX ix_claim_deadline ON claim (deadline) WHERE state IN ('active', 'in_session', 'retake');
CREATE INDEX ix_claim_job_id ON claim (job_id, id);
CREATE INDEX ix_claim_pay_due_at ON claim (pay_due_at) WHERE pay_due_at IS NOT NULL;
CREATE INDEX ix_claim_performer ON claim (performer_id, id);
CREATE INDEX ix_claim_performer_job ON claim (performer_id, job_id);
CREATE UNIQUE INDEX uq_claim_live_role ON claim (role_id) WHERE state IN ('active', 'in_session', 'submitted', 'retake');

CREATE TABLE claim_recording (
    recording_id uuid NOT NULL,
    claim_id uuid NOT NULL,
    consent_grant_id uuid NOT NULL,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_claim_recording PRIMARY KEY (recording_id),
    CONSTRAINT fk_claim_recording_recording_id FOREIGN KEY(recording_id) REFERENCES recording (id),
    CONSTRAINT fk_claim_recording_claim_id FOREIGN KEY(claim_id) REFERENCES claim (id),
    CONSTRAINT fk_claim_recording_consent_grant_id FOREIGN KEY(consent_grant_id) REFERENCES consent_grant (id)
);
CREATE INDEX ix_claim_recording_claim_id ON claim_recording (claim_id);

CREATE TABLE pay_decision (
    id uuid NOT NULL,
    claim_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    number integer NOT NULL,
    outcome text NOT NULL,
    seconds bigint NOT NULL,
    rate_id uuid NOT NULL,
    rate_minor_per_hour bigint NOT NULL,
    fee_basis_points bigint NOT NULL,
    currency text NOT NULL,
    pay_minor bigint NOT NULL,
    fee_minor bigint NOT NULL,
    decided_by uuid,
    confirmed_by uuid,
    reason text,
    decided_at timestamptz DEFAULT marketplace_now() NOT NULL,
    ledger_transaction_id uuid,
    CONSTRAINT pk_pay_decision PRIMARY KEY (id),
    CONSTRAINT fk_pay_decision_price FOREIGN KEY(claim_id, performer_id, rate_id, rate_minor_per_hour, fee_basis_points, currency) REFERENCES claim (id, performer_id, rate_id, rate_minor_per_hour, fee_basis_points, currency),
    CONSTRAINT uq_pay_decision_claim_id_number UNIQUE (claim_id, number),
    CONSTRAINT ck_pay_decision_made_once CHECK (number = 1),
    CONSTRAINT ck_pay_decision_outcome_known CHECK (outcome IN ('pay', 'withhold')),
    CONSTRAINT ck_pay_decision_seconds_not_negative CHECK (seconds >= 0),
    CONSTRAINT ck_pay_decision_pay_exact CHECK (pay_minor = CASE outcome WHEN 'pay' THEN (2 * seconds * rate_minor_per_hour + 3600) / 7200 ELSE 0 END),
    CONSTRAINT ck_pay_decision_fee_exact CHECK (fee_minor = (2 * pay_minor * fee_basis_points + 10000) / 20000),
    CONSTRAINT ck_pay_decision_withheld_by_two CHECK (outcome = 'pay' OR (reason IS NOT NULL AND decided_by IS NOT NULL AND confirmed_by IS NOT NULL AND decided_by <> confirmed_by)),
    CONSTRAINT fk_pay_decision_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT fk_pay_decision_confirmed_by FOREIGN KEY(confirmed_by) REFERENCES person (id),
    CONSTRAINT uq_pay_decision_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_pay_decision_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);

CREATE TABLE submission (
    id uuid NOT NULL,
    claim_id uuid NOT NULL,
    number integer NOT NULL,
    client_id uuid NOT NULL,
    job_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    self_labels jsonb NOT NULL,
    submitted_at timestamptz DEFAULT marketplace_now() NOT NULL,
    review_due_at timestamptz,
    refuses_itself_because text,
    CONSTRAINT pk_submission PRIMARY KEY (id),
    CONSTRAINT uq_submission_claim_id_number UNIQUE (claim_id, number),
    CONSTRAINT fk_submission_claim_id FOREIGN KEY(claim_id) REFERENCES claim (id),
    CONSTRAINT fk_submission_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_submission_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT fk_submission_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id)
);
CREATE INDEX ix_submission_checking ON submission (id) WHERE state = 'checking';
CREATE INDEX ix_submission_client ON submission (client_id, id);
CREATE INDEX ix_submission_job_id ON submission (job_id);
CREATE INDEX ix_submission_review_due_at ON submission (review_due_at) WHERE state = 'in_review';

CREATE TABLE time_entry (
    id uuid NOT NULL,
    claim_id uuid NOT NULL,
    performer_id uuid NOT NULL,
    activity text NOT NULL,
    retake_number integer,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    ends_by timestamptz NOT NULL,
    ended_at timestamptz,
    ended_by text,
    CONSTRAINT pk_time_entry PRIMARY KEY (id),
    CONSTRAINT fk_time_entry_claim FOREIGN KEY(claim_id, performer_id) REFERENCES claim (id, performer_id),
    CONSTRAINT ck_time_entry_activity_known CHECK (activity IN ('brief', 'prep', 'wait', 'perform', 'retake')),
    CONSTRAINT ck_time_entry_ended_by_known CHECK (ended_by IN ('performer', 'switched', 'cap', 'silence', 'deadline', 'submission', 'release')),
    CONSTRAINT ck_time_entry_retake_numbered CHECK ((activity = 'retake') = (retake_number IS NOT NULL) AND retake_number > 0),
    CONSTRAINT ck_time_entry_within_limits CHECK (started_at <= ends_by AND ended_at BETWEEN started_at AND ends_by),
    CONSTRAINT ck_time_entry_end_has_cause CHECK ((ended_at IS NULL) = (ended_by IS NULL)),
    CONSTRAINT ex_time_entry_overlap EXCLUDE USING gist (uuidrange(performer_id, performer_id, '[]') WITH &&, tstzrange(started_at, ended_at) WITH &&)
);
CREATE INDEX ix_time_entry_claim_id ON time_entry (claim_id, started_at);
CREATE INDEX ix_time_entry_open ON time_entry (heartbeat_at) WHERE ended_at IS NULL;

CREATE TABLE withholding (
    id uuid NOT NULL,
    claim_id uuid NOT NULL,
    state text NOT NULL,
    state_reason text,
    ground text NOT NULL,
    reason text NOT NULL,
    proposed_by uuid NOT NULL,
    decided_by uuid,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_withholding PRIMARY KEY (id),
    CONSTRAINT ck_withholding_ground_known CHECK (ground IN ('fraud', 'no_work', 'another_persons_work')),
    CONSTRAINT ck_withholding_second_person CHECK (decided_by <> proposed_by),
    CONSTRAINT fk_withholding_claim_id FOREIGN KEY(claim_id) REFERENCES claim (id),
    CONSTRAINT fk_withholding_proposed_by FOREIGN KEY(proposed_by) REFERENCES person (id),
    CONSTRAINT fk_withholding_decided_by FOREIGN KEY(decided_by) REFERENCES person (id)
);
CREATE UNIQUE INDEX uq_withholding_proposed ON withholding (claim_id) WHERE state = 'proposed';

CREATE TABLE review (
    id uuid NOT NULL,
    submission_id uuid NOT NULL,
    reviewer_id uuid NOT NULL,
    assigned_at timestamptz DEFAULT marketplace_now() NOT NULL,
    lease_until timestamptz NOT NULL,
    decided_at timestamptz,
    verdict text,
    scores jsonb,
    flags text[] NOT NULL,
    reason_code text,
    comment text,
    timestamps jsonb NOT NULL,
    withhold_ground text,
    withhold_reason text,
    CONSTRAINT pk_review PRIMARY KEY (id),
    CONSTRAINT uq_review_submission_id_reviewer_id UNIQUE (submission_id, reviewer_id),
    CONSTRAINT ck_review_verdict_known CHECK (verdict IN ('accept', 'retake', 'refuse')),
    CONSTRAINT ck_review_reason_code_known CHECK (reason_code IN ('brief_not_followed', 'emotion_not_conveyed', 'not_natural', 'technical', 'flagged', 'wrong_language')),
    CONSTRAINT ck_review_verdict_when_decided CHECK ((decided_at IS NULL) = (verdict IS NULL)),
    CONSTRAINT ck_review_has_reason CHECK (verdict IS NULL OR verdict = 'accept' OR (reason_code IS NOT NULL AND comment IS NOT NULL)),
    CONSTRAINT ck_review_retake_mends_it CHECK (verdict IS DISTINCT FROM 'retake' OR reason_code IN ('brief_not_followed', 'technical')),
    CONSTRAINT ck_review_refusal_says_where CHECK (verdict IS DISTINCT FROM 'refuse' OR reason_code IN ('emotion_not_conveyed', 'wrong_language') OR jsonb_array_length(timestamps) > 0),
    CONSTRAINT ck_review_withhold_ground_known CHECK (withhold_ground IN ('fraud', 'no_work', 'another_persons_work')),
    CONSTRAINT ck_review_withholds_with_refusal CHECK ((withhold_ground IS NULL) = (withhold_reason IS NULL) AND (withhold_ground IS NULL OR verdict = 'refuse')),
    CONSTRAINT fk_review_submission_id FOREIGN KEY(submission_id) REFERENCES submission (id),
    CONSTRAINT fk_review_reviewer_id FOREIGN KEY(reviewer_id) REFERENCES person (id)
);
CREATE INDEX ix_review_reviewer_id ON review (reviewer_id);

CREATE TABLE submission_recording (
    recording_id uuid NOT NULL,
    submission_id uuid NOT NULL,
    CONSTRAINT pk_submission_recording PRIMARY KEY (recording_id),
    CONSTRAINT fk_submission_recording_recording_id FOREIGN KEY(recording_id) REFERENCES recording (id),
    CONSTRAINT fk_submission_recording_submission_id FOREIGN KEY(submission_id) REFERENCES submission (id)
);
CREATE INDEX ix_submission_recording_submission_id ON submission_recording (submission_id);
