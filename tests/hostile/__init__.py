"""Damaged and hostile inputs, seeded, thrown at every door: `python -m tests.hostile --cases 100000`.

`mutations` damages bytes, JSON, arrays, archives and pickles; `doors` says what is damaged and what reads it;
`harness` runs the cases in processes of their own and judges what comes out.
"""
