"""A process that has a session of a principal, for a test to kill: `-m tests.lease_holder URL PREFIX SECONDS`."""

import asyncio
import sys
import time

from app.core.grant import Allowance, Grant
from app.quota.books import Lease
from app.quota.books_redis import RedisBooks
from app.quota.quota import Quota, QuotaTerms
from app.store_redis import RedisStore
from tests.stores import record


async def main(url: str, prefix: str, seconds: float) -> None:
    books = RedisBooks(RedisStore(url, prefix=prefix), Lease(held=seconds, known=seconds))
    terms = QuotaTerms(principal=Allowance(), everybody=Allowance())
    async with Quota(books, terms, time.time, renew_seconds=seconds / 5) as quota:
        await quota.open(record("killed"), Grant(principal="p"))
        sys.stdout.write("held\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
