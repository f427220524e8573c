"""What was used, and by whom: shown, changed and exported for the operator.

`desk` answers over the admin door in the broker; `command`, `client` and `tables` are `broker usage` at the other end of it, which knows
no store. `chargeback` reads audit files and asks nobody.
"""
