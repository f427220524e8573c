-- In the namespace '-', which no object can have: ARGV 3 ... are namespaces in use. Answers how many ids were voided that nobody knew the namespace
-- of, those ids each with the time until which that is remembered, and then every namespace that was ever in use.
for at = 3, #ARGV do
  call('SADD', base .. '/namespaces', ARGV[at])
end
local voids = call('ZRANGEBYSCORE', kept, string.format('(%.0f', now), '+inf', 'WITHSCORES')
local answer = {7, now, #voids / 2}
for _, part in ipairs(voids) do
  answer[#answer + 1] = part
end
for _, namespace in ipairs(call('SMEMBERS', base .. '/namespaces')) do
  answer[#answer + 1] = namespace
end
return answer
