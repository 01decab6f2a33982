import time

from server import secrets
from server.operations.verify import Result, verify


async def test_scale(laurel):
    db = laurel.database
    async with db.connection() as c:
        pid = laurel.program.program_id
        await c.execute(f"""INSERT INTO member(program_id,member_id,tier,joined_at) SELECT '{pid}', ('00000000-0000-7000-8000-'||lpad(to_hex(g),12,'0'))::uuid,'bronze',now() FROM generate_series(1,20000) g""")
        await c.execute(f"""INSERT INTO ledger_transaction SELECT '{pid}', m.member_id, gen_random_uuid(),'points', s,'EARN',5,'program.issuance','wallet.balance',5*s,now(),now(),gen_random_uuid(),'PURCHASE','R'||s||m.member_id,'','','','a',gen_random_uuid(),'','{{}}','1','\\x00','\\x00' FROM member m, generate_series(1,10) s""", timeout=100)
        await c.execute("INSERT INTO lot SELECT program_id,member_id,gen_random_uuid(),'points',transaction_id,5,5,true FROM ledger_transaction", timeout=100)
        await c.execute("INSERT INTO business_key SELECT program_id,order_reference,'','','2026-01-01','PURCHASE','',member_id,event_id,ARRAY[transaction_id] FROM ledger_transaction", timeout=100)
        await c.execute("INSERT INTO event_log(epoch,event_id,event_type,program_id,member_id,occurred_at,recorded_at,payload) SELECT 1,event_id,'points.earned',program_id,member_id,now(),now(),jsonb_build_object('transaction_ids',ARRAY[transaction_id]) FROM ledger_transaction", timeout=100)
        await c.execute("INSERT INTO wallet SELECT program_id,member_id,'points',50,0,0,0,50,10,'\\x00' FROM member")
    for analyzed in (False, True):
        if analyzed:
            async with db.connection() as c: await c.execute("ANALYZE")
        t = time.time() 
        async for s in verify(db, secrets.load(laurel.settings.secrets_file).ledger.keys, most=1):
            if isinstance(s, Result): print(f"{time.time()-t:7.2f}", s.check.name, s.checked, s.faults)
