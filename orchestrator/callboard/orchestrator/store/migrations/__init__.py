"""The history of the schema, run by `callboard.orchestrator.store.migrate`. Released files never change."""
