"""A crowd's votes as a state: posteriors per item, built at once or merged step by step with the same result.

state = votes_of(read("votes.parquet"), strength=3.0)
state, merged = merge(state, read("more-votes.parquet"))
state.targets(smoothing=0.05).distribution
"""

from pluralign.judgments.votes.files import read_votes, write_votes
from pluralign.judgments.votes.merging import Merged, merge, new_state, votes_of
from pluralign.judgments.votes.state import Targets, VoteSettings, VoteState, item_key, text_key

__all__ = [
    "Merged", "Targets", "VoteSettings", "VoteState", "item_key", "merge", "new_state", "read_votes", "text_key",
    "votes_of", "write_votes",
]  # fmt: skip
