"""HTTP/1.1 by the byte, for both doors and the way out.

rules.py     which heads pass, judged before any parser sees them      limits.py    how much, how many, how long

listener.py  connections off a socket, and their handshakes            client.py    pooled connections to one origin
server.py    the door: requests to a handler, answers out              outbound.py  one of them
inbound.py   one connection of it                                      places.py    addresses of an origin, dead ones last
body.py      a body out of its pieces                                  answer.py    what comes back
reply.py     a whole request, and the pen to answer it with
"""
