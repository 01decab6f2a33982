"""A row of the ledger in words, the same in every list that shows one."""

from loyalty.v1 import points_pb2

WALLET = "wallet."
BALANCE = f"{WALLET}balance"


def kind(transaction: points_pb2.Transaction) -> str:
    """Its kind; where the balance has no part in it, with what has: pending, held, debt."""
    name = points_pb2.TransactionKind.Name(transaction.kind).removeprefix("TRANSACTION_KIND_").lower()
    accounts = (transaction.debit_account, transaction.credit_account)
    if BALANCE in accounts:
        return name
    figures = [account.removeprefix(WALLET) for account in accounts if account.startswith(WALLET)]
    return f"{name}, {figures[0] if figures else 'not taken'}"


def signed(transaction: points_pb2.Transaction) -> str:
    """Its points. Less is out of the balance; where the balance has no part in it, out of the wallet."""
    gained = transaction.credit_account == BALANCE or (
        transaction.debit_account != BALANCE and transaction.credit_account.startswith(WALLET)
    )
    return f"{transaction.points if gained else -transaction.points:+,}"
