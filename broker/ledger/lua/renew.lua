-- ARGV 3... are ids.
for at = 3, #ARGV do
  local hold = find(ARGV[at])
  if hold and not hold[1] then
    for _, counter in ipairs(hold[9]) do
      call('ZADD', base .. '/leases/' .. counter, now + $LEASE, ARGV[at])
    end
  end
end
return {0, now}
