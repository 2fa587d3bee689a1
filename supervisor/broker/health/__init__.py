"""The health of a cluster: looked at from all sides, judged by pure rules, told in words one understands at night."""
