
import time
from tests.faults.campaign import Ground, probe, run, cells_of
def test_it(ground: Ground):
    for i in range(3):
        t=time.time(); ran = probe(ground, "payout", 1); print(time.time()-t, len(ran.points), ran.violations)
    for p in ran.points: print(p)
    cells=cells_of("payout",1,ran.points); print(len(cells))
    import random
    for c in random.Random(1).sample(cells, 25):
        t=time.time(); r = run(ground, c); print(round(time.time()-t,2), c, r.fired, r.violations)
