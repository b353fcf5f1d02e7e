"""The flows that the campaign breaks. Another one is its story, its end, and a line here."""

from tests.faults import flows_in, flows_out, flows_work
from tests.faults.flow import WORK, Flow, Rival

FLOWS: dict[str, Flow] = {
    "deposit": Flow(flows_in.empty_wallet, flows_in.deposit, flows_in.deposited, may_wait=True),
    "webhook": Flow(
        flows_in.waiting_page,
        flows_in.be_told,
        flows_in.was_told,
        listens=True,
        sweeps=("poll_events", "inbox"),
        may_wait=True,
    ),
    "topup": Flow(flows_in.finance_alone, flows_in.top_up, flows_in.topped_up, may_wait=True),
    "publish": Flow(flows_work.full_wallet, flows_work.publish, flows_work.published),
    "claim": Flow(flows_work.open_role, flows_work.claim, flows_work.claimed),
    "race": Flow(
        flows_work.one_role,
        flows_work.claim_first,
        flows_work.one_has_it,
        rivals=(Rival(flows_work.claim_too),),
    ),
    "decision": Flow(flows_work.performed, flows_work.decide, flows_work.decided, sweeps=WORK),
    "account": Flow(
        flows_out.newcomer,
        flows_out.open_account,
        flows_out.may_be_paid,
        sweeps=("poll_accounts",),
    ),
    "payout": Flow(
        flows_out.payday,
        flows_out.pay,
        flows_out.paid,
        flows_out.approve_again,
        rivals=(
            Rival(flows_out.release),
            Rival(flows_out.send_too),
            Rival(flows_out.send_for_it_a_day_later, longest_seconds=8),
        ),
        may_wait=True,
    ),
    "reversal": Flow(
        flows_out.after_payday,
        flows_out.take_back,
        flows_out.came_back,
        flows_out.reversal_is_gone,
        rivals=(Rival(flows_out.reverse_too),),
        may_wait=True,
    ),
    "correction": Flow(
        flows_out.payday,
        flows_out.correct,
        flows_out.corrected,
        flows_out.approve_again,
        rivals=(Rival(flows_out.approve_too),),
        may_wait=True,
    ),
    "refund": Flow(
        flows_out.full_wallet,
        flows_out.refund,
        flows_out.refunded,
        flows_out.refund_is_gone,
        rivals=(Rival(flows_out.refund_too),),
        may_wait=True,
    ),
    "withdrawal": Flow(
        flows_out.capital,
        flows_out.withdraw,
        flows_out.withdrawn,
        flows_out.withdrawal_is_gone,
        rivals=(Rival(flows_out.withdraw_too), Rival(flows_out.discard)),
        may_wait=True,
    ),
    "dispute": Flow(
        flows_out.disputed_payment,
        flows_out.dispute,
        flows_out.borne,
        sweeps=("poll_events", "inbox", "disputes"),
        may_wait=True,
    ),
}
