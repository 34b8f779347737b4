"""The bus: everything between Callboard and NATS.

Only this package imports nats; `options` and `context` say how to connect, `connection` keeps the connection, `ask` and
`serve` put typed messages on it, `micro` shows a server to the `nats` command.
"""
