"""The seal: what is only ever inserted is chained by hashes, so that not even its owner can rewrite
it unseen.
"""
