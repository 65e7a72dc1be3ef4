"""Stage, publish, retire, recover: the only writer of both stores."""
