-- ARGV 3 id, 4 input and 5 output tokens ('': nobody knows), 6 what they cost ('': nobody knows). Answers the tokens charged over the hold.
local hold = find(ARGV[3])
if not hold or (hold[1] and ARGV[4] == '') then
  return {0, now, 0}
end
local input, output, excess, cost = tonumber(ARGV[4]), tonumber(ARGV[5]), 0, hold[10]
if input then
  cost = tonumber(ARGV[6]) or cost
  local used = {t = input + output, i = input, o = output, r = hold[6], u = cost}
  for _, charge in ipairs(hold[8]) do
    local by = used[charge[3]] - charge[4]
    change(charge, hold[1] and math.max(0, by) or by)
  end
  excess = math.max(0, input - hold[4]) + math.max(0, output - hold[5])
end
call('HDEL', holds, ARGV[3])
if hold[1] then
  call('ZREM', kept, ARGV[3])
  tally(hold[3], hold[2], excess, 0, 0, math.max(0, cost - hold[10]))
else
  call('ZREM', open, ARGV[3])
  release(ARGV[3], hold[9])
  tally(hold[3], hold[2], input and input + output or hold[4] + hold[5], hold[6], 0, cost)
end
return {0, now, excess}
