-- What an identity did under a policy: when it last used it; the newest hour with something in it, and its tokens, requests, refusals and
-- micro-dollars; then, packed, as many figures for each earlier hour of its last 24, the oldest first. Of these the hours stand modulo 128,
-- which takes one byte, and says enough beside the newest.
local function put_away(past, at, hour, t, r, d, c)
  local hours, left = past ~= '' and cmsgpack.unpack(past) or {}, {}
  for _, figure in ipairs({at % 128, t, r, d, c}) do
    hours[#hours + 1] = figure
  end
  for n = 1, #hours, 5 do
    if (at - hours[n]) % 128 + hour - at < 24 then
      for m = n, n + 4 do
        left[#left + 1] = hours[m]
      end
    end
  end
  return #left > 0 and cmsgpack.pack(left) or ''
end

local function tally(policies, identity, tokens, requests, denied, cost)
  local hour = math.floor(now / 3600000000)
  for policy in string.gmatch(policies, '%S+') do
    local field = policy .. ' ' .. identity
    local known = call('HGET', base .. '/tallies', field)
    local used_at, at, t, r, d, c, past = 0, hour, 0, 0, 0, 0, ''
    if known then
      used_at, at, t, r, d, c = struct.unpack('<dI4I8I4I4I8', known)
      past = string.sub(known, 37)
      if at < hour then
        past = put_away(past, at, hour, t, r, d, c)
        at, t, r, d, c = hour, 0, 0, 0, 0
      end
    end
    if denied == 0 then
      used_at = now
    end
    local newest = struct.pack('<dI4I8I4I4I8', used_at, at, t + tokens, r + requests, d + denied, c + cost)
    call('HSET', base .. '/tallies', field, newest .. past)
  end
end
