-- Hold for all budgets or for none: quota.grant, as far as it decides. What it says beyond yes and no, the broker works out of the same figures.
-- ARGV 3 the ask, packed: id, identity, policies, prompt bound, least and wanted output, requests, expires after, the minute that the windows are
--   of, the loss that the broker knows of, windows: each its key and its end; budgets: each its counter, unit (in capitals: shadow), limit and
--   which of the windows (0: a lease); rates: what the prompt and the request cost, then what a token of output does, each in whole
--   micro-dollars and the rest in pico-dollars; empty without a price.
local id, identity, policies, prompt, least, wanted, requests, expires, minute, lost, windows, budgets, rates = unpack(cmsgpack.unpack(ARGV[3]))
local quiet = tonumber(head[4] or 0) - server_now -- not by our time: should that stand still, this would never end
if call('HEXISTS', holds, id) == 1 then
  return {2, now}
elseif quiet > 0 and quiet <= $QUIET then
  return {4, now}
elseif tonumber(head[3] or 0) ~= lost then
  return {5, now, tonumber(head[3] or 0)}
elseif math.floor(now / 60000000) ~= minute then
  return {6, now}
end

-- A number of Lua has 53 bits, which no product of a price and tokens is sure to fit: so it is built of parts that do, and what is too
-- large for them is larger than any limit.
local function money(output)
  if #rates == 0 then
    return $MOST_MICROUSD
  end
  local millions, rest = math.floor(output / 1000000), output % 1000000
  return math.min($MOST_MICROUSD, rates[1] + output * rates[3] + millions * rates[4] + math.ceil((rates[2] + rest * rates[4]) / 1000000))
end

-- The most output that costs no more than this, at most `most`. The quotient may be wrong in its last digit.
local function paid_for(left, most)
  local each = #rates > 0 and rates[3] * 1000000 + rates[4] or 0
  if each == 0 then
    return most
  end
  local output = math.min(most, math.floor(((left - rates[1]) * 1000000 - rates[2]) / each))
  while output < most and money(output + 1) <= left do
    output = output + 1
  end
  while output > least and money(output) > left do
    output = output - 1
  end
  return output
end

-- Nobody but the sweep removes a window, and the sweep takes it off the list in the same step.
local gone = false
least = math.min(least, wanted)
local needs = {t = prompt + least, i = prompt, o = least, r = requests, c = 1, u = money(least)}
local granted, refused, answer = wanted, false, {0, now, 0}
for n, budget in ipairs(budgets) do
  local counter, unit, window, used = budget[1], string.lower(budget[2]), windows[budget[4]], 0
  if window then
    local key = base .. '/' .. window[1]
    local known = call('HGET', key, counter)
    gone = gone or not known and call('EXISTS', key) == 0 and call('ZSCORE', base .. '/windows', window[1]) and window[1]
    used = tonumber(known or 0)
  else
    used = call('ZCOUNT', base .. '/leases/' .. counter, string.format('(%.0f', now), '+inf')
  end
  answer[n + 3] = used
  if unit == budget[2] then
    local need, left = needs[unit], budget[3] - used
    if need > left and need > 0 then
      refused = true
    elseif unit == 't' then
      granted = math.max(least, math.min(granted, left - prompt))
    elseif unit == 'o' then
      granted = math.max(least, math.min(granted, left))
    elseif unit == 'u' then
      granted = math.max(least, paid_for(left, granted))
    end
  end
end
if gone then
  call('HSET', base, 'lost', now, 'clock', now)
  call('ZREM', base .. '/windows', gone)
  return {5, now, now, gone}
elseif refused then
  answer[1] = 1
  return answer
end
answer[3] = granted
call('EXISTS', open, base .. '/windows', base .. '/widths')

call('HSET', base, 'clock', now)
needs.t, needs.o, needs.u = prompt + granted, granted, money(granted)
local charges, leases = {}, {}
for _, budget in ipairs(budgets) do
  local counter, unit, window = budget[1], string.lower(budget[2]), windows[budget[4]]
  if window then
    local need, key = needs[unit], base .. '/' .. window[1]
    if call('HINCRBY', key, counter, need) == need then
      call('ZADD', base .. '/windows', window[2], window[1]) -- for the sweep; a time to live would go by a clock that may jump
    end
    charges[#charges + 1] = {window[1], counter, unit, need}
  else
    call('ZADD', base .. '/leases/' .. counter, now + $LEASE, id)
    call('SADD', base .. '/widths', counter)
    leases[#leases + 1] = counter
  end
end
local cost = #rates > 0 and needs.u or 0
call('HSET', holds, id, cmsgpack.pack({false, identity, policies, prompt, granted, requests, now + expires, charges, leases, cost}))
call('ZADD', open, now + expires, id)
return answer
