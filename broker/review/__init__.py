"""What people ask of the objects, without a broker: what is wrong with them, who may call what, and what an edit changes.

checking.py    `broker check`                       explaining.py  `broker explain`: one identity, one model
questions.py   `broker explain --questions`         listing.py     `broker who-can`
differing.py   `broker diff`                        comparing.py   what an edit changes
describing.py  and how that is told                 printing.py    texts, JSON, YAML, exit codes
classes.py     identities that are treated alike    access.py      what each class of them may do
assuming.py    Secrets that are not to be seen      command.py     what the commands take
"""
