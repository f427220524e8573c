-- What an identity did under a policy: when it last used it, then 28 bytes for each hour with something in it, the oldest first.
local function tally(policies, identity, tokens, requests, denied, cost)
  local hour = math.floor(now / 3600000000)
  for policy in string.gmatch(policies, '%S+') do
    local field = policy .. ' ' .. identity
    local known = call('HGET', base .. '/tallies', field)
    local used_at, hours, t, r, d, c = 0, '', 0, 0, 0, 0
    if known then
      used_at, hours = struct.unpack('<d', known), string.sub(known, 9)
    end
    if hours ~= '' and struct.unpack('<I4', hours, #hours - 27) == hour then
      t, r, d, c = struct.unpack('<I8I4I4I8', hours, #hours - 23)
      hours = string.sub(hours, 1, -29)
    end
    while hours ~= '' and struct.unpack('<I4', hours) < hour - 23 do
      hours = string.sub(hours, 29)
    end
    if denied == 0 then
      used_at = now
    end
    hours = hours .. struct.pack('<I4I8I4I4I8', hour, t + tokens, r + requests, d + denied, c + cost)
    call('HSET', base .. '/tallies', field, struct.pack('<d', used_at) .. hours)
  end
end
