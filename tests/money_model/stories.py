"""Sequences in an order of our own, so that nothing is missed by chance."""

from typing import Any

from tests.money_model.machine import Money

# A rule, and what it is given.
Step = tuple[Any, ...]
STATES = ("draft", "approved", "held", "unknown", "paid", "refused", "released")
FIRST, SECOND = 0, 1
PLAYED_WELL = [("perform", 41), ("prep", 13), ("perform", 29)]
FROM_DEPOSIT_TO_PAY: tuple[Step, ...] = (
    (Money.begin, 100_000, True, 1_275),
    (Money.a_client_pays, FIRST, 20_017, "bank_debit", False),
    (Money.a_client_pays, FIRST, 20_017, "bank_debit_bounced", False),
    (Money.a_client_pays, SECOND, 20_017, "card_declined", True),
    # Three takes: accepted after a retake, refused by two, and one that nobody judges.
    (Money.a_role_is_played, 0, 0, PLAYED_WELL),
    (Money.a_take_is_judged, 0, "retake"),
    (Money.time_is_worked, 0, [("perform", 17)]),
    (Money.work_is_handed_in, 0),
    (Money.a_take_is_judged, 0, "accept"),
    (Money.a_role_is_played, 1, 0, [("perform", 31), ("perform", 31)]),
    (Money.a_take_is_judged, 0, "refuse"),
    (Money.a_take_is_judged, 1, "refuse"),
    (Money.a_role_is_played, 2, 0, [("prep", 7)]),
    # A job at a higher rate: the open role of the first is reserved up.
    (Money.a_job_is_drafted, FIRST, 3, (77, 133), 0, 601),
    (Money.roles_are_published, 0, 1),
    (Money.roles_are_published, 0, None),
    (Money.time_passes, 80, True),
    # Given back and proposed: once confirmed, once rejected, once paid by somebody, once late.
    (Money.a_role_is_claimed, 0, 1),
    (Money.time_is_worked, 0, [("perform", 50)]),
    (Money.a_claim_is_given_back, 0),
    (Money.one_proposes_not_to_pay, 0),
    (Money.another_decides_about_it, 0, True),
    (Money.a_role_is_claimed, 1, 1),
    (Money.time_is_worked, 0, [("perform", 33)]),
    (Money.a_claim_is_given_back, 0),
    (Money.one_proposes_not_to_pay, 0),
    (Money.another_decides_about_it, 0, False),
    (Money.a_role_is_claimed, 2, 1),
    (Money.time_is_worked, 0, [("perform", 11)]),
    (Money.a_claim_is_given_back, 0),
    (Money.somebody_pays, 0, 1),
    (Money.a_role_is_claimed, 0, 1),
    (Money.time_is_worked, 0, [("prep", 19)]),
    (Money.time_passes, 50, True),
    (Money.one_proposes_not_to_pay, 0),
    (Money.a_job_is_closed, 1),
    (Money.time_passes, 80, True),
    (Money.somebody_tries_out, 0, 44, True),
)
FROM_PAY_TO_STRIPE: tuple[Step, ...] = (
    (Money.a_run_is_drafted,),
    (Money.a_run_is_decided, 0, False),
    (Money.somebody_opens_an_account,),
    # Restricted when it is sent: held, approved again, refused by Stripe, given up.
    (Money.stripe_changes_its_mind, 0),
    (Money.it_is_payday, "balance_insufficient"),
    (Money.stripe_changes_its_mind, 0),
    (Money.one_is_approved_again, 0),
    (Money.payouts_are_sent, "account_restricted"),
    (Money.one_is_given_up, 0),
    (Money.stripe_changes_its_mind, 0),
    # Asked again with the same key until Stripe says something.
    (Money.it_is_payday, "drop_before"),
    (Money.one_is_called_absent, 0),
    (Money.payouts_are_sent, "apply_then_drop"),
    (Money.payouts_are_sent, None),
)
FROM_STRIPE_BACK: tuple[Step, ...] = (
    # Transfers: half of one to the wrong person, which is paid again; the rest was fraud.
    (Money.one_asks_for_a_transfer_back, 0, 1_001, "fraud"),
    (Money.one_asks_for_a_transfer_back, 0, 500, "wrong_destination"),
    (Money.another_decides_about_the_transfer, 0, True),
    (Money.transfers_are_taken_back, "drop_before"),
    (Money.a_reversal_is_called_absent, 0),
    (Money.transfers_are_taken_back, "apply_then_drop"),
    (Money.transfers_are_taken_back, None),
    # To another account: not before it has cooled.
    (Money.a_wrong_account_is_retired, 0),
    (Money.somebody_opens_an_account,),
    (Money.it_is_payday, None),
    (Money.time_passes, 80, True),
    (Money.one_is_approved_again, 0),
    (Money.payouts_are_sent, None),
    (Money.one_asks_for_a_transfer_back, 0, 1_000, "fraud"),
    (Money.another_decides_about_the_transfer, 0, False),
    (Money.one_asks_for_a_transfer_back, 0, 1_000, "fraud"),
    (Money.another_decides_about_the_transfer, 0, True),
    (Money.transfers_are_taken_back, None),
    # Refunds: more than there is, nearly all of it, and what a bank sends back.
    (Money.money_is_asked_back, FIRST, 1_001, True),
    (Money.money_is_asked_back, FIRST, 999, True),
    (Money.refunds_are_sent, "drop_before"),
    (Money.a_refund_is_called_absent, 0),
    (Money.refunds_are_sent, "apply_then_drop"),
    (Money.refunds_are_sent, None),
    (Money.a_bank_sends_one_back, 0, False),
    (Money.money_is_asked_back, SECOND, 250, False),
    (Money.refunds_are_sent, "balance_insufficient"),
    # Disputes: won, then lost beyond the wallet, from an open role; the client owes the rest.
    (Money.a_bank_takes_a_payment_back, FIRST, 300),
    (Money.money_is_asked_back, FIRST, 250, True),
    (Money.a_dispute_ends, 0, True),
    (Money.a_job_is_drafted, SECOND, 2, (0, 60), 0, 0),
    (Money.roles_are_published, -1, None),
    (Money.a_role_is_claimed, 0, -1),
    (Money.a_bank_takes_a_payment_back, SECOND, 1_000),
    (Money.a_dispute_ends, 0, False),
    (Money.one_proposes_what_becomes_of_a_debt, 0, 1_001, "settle"),
    (Money.one_proposes_what_becomes_of_a_debt, 0, 1_000, "settle"),
    (Money.another_decides_about_a_debt, 0, True),
    (Money.another_decides_about_a_debt, 0, False),
    (Money.a_client_pays, SECOND, 20_017, "card", True),
    (Money.one_proposes_what_becomes_of_a_debt, 0, 400, "settle"),
    (Money.one_proposes_what_becomes_of_a_debt, 0, 1_000, "write_off"),
    (Money.another_decides_about_a_debt, 0, True),
    (Money.another_decides_about_a_debt, 0, True),
    (Money.another_decides_about_a_debt, 0, False),
    (Money.one_proposes_what_becomes_of_a_debt, 0, 1_000, "write_off"),
    (Money.another_decides_about_a_debt, 0, True),
    # Own money: more than is free, half of it, which comes back once it had arrived.
    (Money.one_asks_for_own_money, 1_001),
    (Money.one_asks_for_own_money, 500),
    (Money.another_decides_about_own_money, 0, True),
    (Money.own_money_is_sent, "drop_before"),
    (Money.a_withdrawal_is_called_absent, 0),
    (Money.own_money_is_sent, "apply_then_drop"),
    (Money.own_money_is_sent, None),
    (Money.time_passes, 80, True),
    (Money.the_bank_sends_own_money_back, 0, True),
    (Money.one_asks_for_own_money, 1_000),
    (Money.another_decides_about_own_money, 0, True),
    (Money.own_money_is_sent, None),
)
