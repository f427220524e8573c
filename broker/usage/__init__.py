"""What was used, and by whom: shown, changed and exported for the operator.

In the broker:   desk.py        answers over the admin door         report.py  what it reports
                 quotas.py      counters by name, names by counter  watch.py   says when a quota is nearly full
At the other     command.py     `broker usage`: what it takes       asking.py  one question, and its answer in print
end of the door: client.py      the way to the door                 tables.py  how it is printed
Without either:  chargeback.py  who owes what, from audit files
"""
