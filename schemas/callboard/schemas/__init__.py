"""The vocabulary of Callboard's wire protocol: names, states, messages, subjects, errors.

Everything that two parties must agree on lives here and nowhere else; this package imports nothing of ours.
The contract itself is `docs/protocol.md`; where that page and this code disagree, the code is wrong.
"""
