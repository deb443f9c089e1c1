"""A chunk of actions in one episode as one compiled function: 25 physics substeps per action, controller and goal test.

`layout` says what it is given, `osc` is the control law, `predicates` the goal test, `chunk` the loop over both. Every
function also runs as plain Python (see `native`), with the same bits.
"""
